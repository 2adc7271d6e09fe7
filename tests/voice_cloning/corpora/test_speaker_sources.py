"""Who speaks: labels that hold within a recording or name nobody, videos, files, and what the user chooses."""

from pathlib import Path

import pytest

from boson_multimodal.errors import InputError
from tests.chatml_files import write_clip
from tests.voice_cloning.corpora.corpus_tables import SEVERAL, sada, write_table
from tests.voice_cloning.corpora.source_forms import built, records_of, sources, words
from voice_cloning.corpora.build import build_data

EPISODES = {"batch_1/6k_SBA_107_0", "batch_1/6k_SBA_107_1", "batch_2/6k_v_SBA3_2455_3"}


@pytest.mark.parametrize(
    ("speaker_from", "speakers", "aside"),
    [
        ("column", {f"{name}/Speaker1متحدث" for name in EPISODES} | {"batch_1/6k_SBA_107_0/Speaker2متحدث"}, 2),
        ("Speaker", {"Speaker1متحدث", "Speaker2متحدث"}, 0),  # and two speakers with one clip
        ("file", EPISODES, 1),
        ("folder", {"batch_1", "batch_2"}, 1),
    ],
)
def test_the_user_chooses_who_speaks_in_sada(speaker_from: str, speakers: set[str], aside: int, tmp_path: Path) -> None:
    truth = sada(tmp_path)
    summary = build_data(truth.source, tmp_path / "out", eval_share=0, speaker_from=speaker_from)
    assert {r["speaker"] for r in records_of(tmp_path / "out")} == speakers
    assert sum(map(len, summary["left_aside"].values())) == aside
    assert summary["left_out"]["speakers_with_one_clip"] == ([SEVERAL, "Unknown"] if speaker_from == "Speaker" else [])


@pytest.mark.parametrize("label", ["SPEAKER_0{}", "Speaker {}", "spk{}", "متحدث {}", "speaker-1{}"])
def test_labels_that_are_counted_anew_in_each_recording_hold_within_it(label: str, tmp_path: Path) -> None:
    rows = []
    for number, name in enumerate(("one.wav", "two.wav")):
        write_clip(tmp_path / name, 5.0, seed=number)
        for i in range(6):
            row = {"file": name, "start": 0.8 * i, "end": 0.8 * i + 0.7, "speaker": label.format(i % 2)}
            rows.append(row | {"text": words(name[:3], i)})
    table = write_table(tmp_path / "list.csv", ("file", "start", "end", "speaker", "text"), rows)
    found, said = built(table, tmp_path / "out")
    assert set(found.values()) == {f"{name}/{label.format(i)}" for name in ("one", "two") for i in range(2)}
    assert "speaker: column speaker within each recording (column file), because its labels are counted anew" in said
    found, _ = built(table, tmp_path / "named", speaker_from="speaker")
    assert set(found.values()) == {label.format(0), label.format(1)}


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (SEVERAL, "several"),
        ("more than one speaker", "several"),
        ("متعدد", "several"),
        ("Multiple speakers", "several"),
        ("أكثر من متحدث", "several"),
        ("Unknown", "an unknown"),
        ("Unknown غير معروف", "an unknown"),
        ("Notapplicable", "an unknown"),
        ("غير معروف", "an unknown"),
        ("Unk Ahmed", None),
        ("متعب", None),
    ],
)
def test_a_label_that_is_no_single_voice_is_left_aside(who: str, reason: str | None, tmp_path: Path) -> None:
    rows = [{"file": n, "text": t, "speaker": s} for n, t, s in sources(tmp_path)]
    for row in rows[:3]:
        row["speaker"] = who
    table = write_table(tmp_path / "list.csv", ("file", "text", "speaker"), rows)
    summary = build_data(table, tmp_path / "out", eval_share=0)
    expected = {f"segments of {reason} speaker" + "s" * (reason == "several"): 3} if reason else {}
    assert {name: len(places) for name, places in summary["left_aside"].items()} == expected
    named = build_data(table, tmp_path / "named", eval_share=0, speaker_from="speaker")
    assert named["left_aside"] == {} and named["utterances"] == 12


@pytest.mark.parametrize(
    ("name", "video"),
    [
        ("OGqz9G-JO0E_0001.wav", "OGqz9G-JO0E"),
        ("zvf3_No6-Kg-12-345.flac", "zvf3_No6-Kg"),
        ("87edeceb-5349-4210-89ad-8c3e91e54062_OGqz9G-JO0E.wav", "OGqz9G-JO0E"),
        ("-abc_DEF-12.wav", "-abc_DEF-12"),
        ("ar_OGqz9GxJO0E_12.5_14.25.wav", "OGqz9GxJO0E"),
    ],
)
def test_the_video_of_a_clip_is_in_its_name(name: str, video: str, tmp_path: Path) -> None:
    for i in range(2):
        stem = name.rsplit(".", 1)[0]
        clip = write_clip(tmp_path / "in" / f"{i}" / name, seed=i)
        clip.with_suffix(".txt").write_text(words("x", i), encoding="utf-8")
        assert clip.stem == stem
    build_data(tmp_path / "in", tmp_path / "out", eval_share=0, speaker_from="video")
    assert {r["speaker"] for r in records_of(tmp_path / "out")} == {video}


def test_a_table_without_a_speaker_says_which_values_suit(tmp_path: Path) -> None:
    rows = [{"file": name, "text": text} for name, text, _ in sources(tmp_path)]
    table = write_table(tmp_path / "list.csv", ("file", "text"), rows)
    for speaker_from in (None, "column"):
        with pytest.raises(InputError, match="--speaker_from: name a column, or one for a single.*cluster to group"):
            build_data(table, tmp_path / "out", speaker_from=speaker_from)
    with pytest.raises(InputError, match="line 2: 'أمل_0' holds no id of a video .11 characters"):
        build_data(table, tmp_path / "out", speaker_from="video")
