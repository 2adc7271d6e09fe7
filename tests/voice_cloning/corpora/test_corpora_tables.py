"""The Arabic corpora that come as tables and lists: read as they lie, or refused with all that is wrong."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.errors import InputError
from tests.chatml_files import write_clip
from tests.voice_cloning.corpora.corpus_tables import (
    COMMON_VOICE_COLUMNS,
    CORPORA,
    VIDEOS,
    TableTruth,
    masc,
    rewrite,
    sada,
    write_table,
)
from tests.voice_cloning.corpora.source_forms import built, records_of, sources, write_lines
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.build import SUMMARY_FILE, build_data
from voice_cloning.corpora.card_licences import DATA_CARD
from voice_cloning.corpora.utterances import OWN_KEYS, Collection, Utterance


def whole_videos(folder: Path) -> TableTruth:
    return masc(folder, whole_videos=True)


SAID: dict[str, tuple[str, ...]] = {
    "sada": (
        "tables with the same columns, which are read together: test.csv, train.csv, valid.csv",
        "audio: column FileName",
        "text: column GroundTruthText or, where it is empty, ProcessedText",
        "speaker: column Speaker within each recording (column FileName)",
        "cut: columns SegmentStart, SegmentEnd",
        "kept in misc: dialect (column SpeakerDialect), gender (column SpeakerGender)",
        "licence: CC BY-NC-SA 4.0, as its publisher names it; no commercial use",
        "left aside: 1 segments of several speakers, 1 segments of an unknown speaker",
    ),
    "masc": (
        "speaker: the id of the video, which stands for its voice (column video_id)",
        "columns start, end are times in the recording that the clips were cut from; the clips are read whole",
        "audio: column file_path",
        "about this licence: one copy of it names CC BY-NC 4.0 instead",
    ),
    "masc_videos": ("audio: column video_id", "cut: columns start, end"),
    "masc_subtitles": (
        "texts and times: subtitles/VIDEO.ar.vtt of each video",
        "tables with the same columns, which are read together: subsets/clean_train.csv, subsets/noisy_train.csv",
        "cut: columns start, end",
    ),
    "common_voice": (
        "validated.tsv is read; train, dev and test are parts of it",
        "tables that are not read: clip_durations.tsv, dev.tsv, invalidated.tsv, other.tsv, reported.tsv",
        "accent (column accents)",
        "licence: CC0 1.0",
    ),
    "halabi": (
        "table: orthographic-transcript.txt, quoted pairs of a clip and its text",
        "turned into Arabic letters: waraj~aHa Alt~aqoriyru -> وَ",
        "corpus: Arabic Speech Corpus",
        "licence: CC BY 4.0",
    ),
    "arvoice": (
        "speaker: column speaker_id",
        "audio: column original_wav",
        "the professional recordings have",
    ),
}
"""Corpus -> what the user reads about it."""


@pytest.mark.parametrize("corpus", SAID)
def test_a_corpus_is_read_as_it_lies(corpus: str, tmp_path: Path) -> None:
    truth = {**CORPORA, "masc_videos": whole_videos}[corpus](tmp_path / "corpus")
    said: list[str] = []
    summary = build_data(truth.source, tmp_path / "out", eval_share=0, announce=said.append)
    assert (summary["utterances"], summary["speakers"]) == (truth.utterances, truth.speakers)
    assert summary["hours"] == pytest.approx(truth.hours, abs=1e-7)
    assert sum(map(len, summary["left_aside"].values())) == truth.left_aside and not any(summary["left_out"].values())
    records = records_of(tmp_path / "out")
    assert {r["misc"]["target_transcript"]: r["speaker"] for r in records} == truth.speaker_of
    for record in records:
        expected = truth.misc.get(record["misc"]["target_transcript"], {})
        assert {name: record["misc"].get(name) for name in expected} == expected
    assert said[0].count("sample: ") == 2
    for fact in SAID[corpus]:
        assert fact in said[0]
    card = (tmp_path / "out" / DATA_CARD).read_text(encoding="utf-8")
    assert next(fact for fact in said[0].split("\n") if "licence: " in fact).strip() in card


def test_everything_that_is_wrong_with_sada_is_named_at_once(tmp_path: Path) -> None:
    truth = sada(tmp_path)
    (tmp_path / "batch_2" / "6k_v_SBA3_2455_3.wav").unlink()
    rewrite(tmp_path / "test.csv", 3, ",2.35,", ",99,")
    rewrite(tmp_path / "test.csv", 4, "وش رايك، ", "\ufffd")
    with pytest.raises(InputError, match=r"\(3\):") as caught:
        build_data(truth.source, tmp_path / "out")
    said = str(caught.value)
    missing = "valid.csv, line 2 and 3 more entries: "
    assert missing in said and "batch_2/6k_v_SBA3_2455_3.wav: no such file" in said
    assert "test.csv, line 3: ends at 99 s of " in said and "test.csv, line 4: " in said
    assert not (tmp_path / "out").exists()


def test_a_wrong_column_is_named_in_each_table(tmp_path: Path) -> None:
    truth = sada(tmp_path)
    with pytest.raises(InputError) as caught:
        build_data(truth.source, tmp_path / "out", text_column="Text", speaker_from="Who")
    for table in ("train", "valid", "test"):
        assert f"--text_column Text: unknown column; {tmp_path / table}.csv has ['FileName'" in str(caught.value)
    assert "--speaker_from Who: unknown column" in str(caught.value)
    rewrite(tmp_path / "valid.csv", 1, "FileName", "Datei")
    with pytest.raises(InputError, match=r"\(1\):\n.*--audio_column: name a column; .*valid\.csv, which has \['Datei'"):
        build_data(truth.source, tmp_path / "out")


def test_the_other_text_of_sada_can_be_taken(tmp_path: Path) -> None:
    truth = sada(tmp_path)
    build_data(truth.source, tmp_path / "out", eval_share=0, text_column="ProcessedText")
    texts = {r["misc"]["target_transcript"] for r in records_of(tmp_path / "out")}
    assert texts == {text.replace("،", "").replace("؟", "") for text in truth.speaker_of}


def test_rows_of_a_known_corpus_without_a_text_or_a_speaker_are_left_aside(tmp_path: Path) -> None:
    truth = sada(tmp_path)
    text = next(text for text, who in truth.speaker_of.items() if "2455" in who)
    rewrite(tmp_path / "valid.csv", 2, f"{text},{text.replace('،', '').replace('؟', '')}", ",")
    summary = build_data(truth.source, tmp_path / "out", eval_share=0)
    assert summary["left_aside"]["rows without a text"] == [f"{tmp_path / 'valid.csv'}, line 2"]
    assert summary["utterances"] == truth.utterances - 1
    rewrite(tmp_path / "valid.csv", 3, ",Speaker1متحدث,", ",,")
    summary = build_data(truth.source, tmp_path / "out2", eval_share=0)
    nobody = [f"{tmp_path / 'train.csv'}, line 11", f"{tmp_path / 'valid.csv'}, line 3"]
    assert summary["left_aside"]["segments of an unknown speaker"] == nobody


def test_episodes_in_another_folder_are_found_by_their_names(tmp_path: Path) -> None:
    truth = sada(tmp_path)
    (tmp_path / "extracted" / "part").mkdir(parents=True)
    (tmp_path / "batch_1").rename(tmp_path / "extracted" / "part" / "batch_1")
    found, _ = built(truth.source, tmp_path / "out")
    assert found == truth.speaker_of
    for folder in ("one", "two"):
        write_clip(tmp_path / folder / "6k_v_SBA3_2455_3.wav", 9.0)
    (tmp_path / "batch_2" / "6k_v_SBA3_2455_3.wav").unlink()
    with pytest.raises(InputError, match="valid.csv, line 2: batch_2/6k.*: 2 files have this name .*one/6k.*two/6k"):
        build_data(truth.source, tmp_path / "out2")


def test_the_second_list_of_the_arabic_speech_corpus_has_clips_of_its_own(tmp_path: Path) -> None:
    truth = CORPORA["halabi"](tmp_path)
    other = truth.source / "test set"
    write_clip(other / "wav" / "ARA NORM  0002.wav", 1.0, seed=99)
    write_lines(other / "orthographic-transcript.txt", ['"ARA NORM  0002.wav" "wahaAjamahu EumaruN"'])
    found, said = built(truth.source, tmp_path / "out")
    assert len(found) == truth.utterances + 1 and "orthographic-transcript.txt, test set/orthographic-tra" in said
    splits = {r["misc"]["sample_id"]: r["misc"]["split"] for r in records_of(tmp_path / "out")}
    assert splits["test set/ARA NORM  0002"] == "test set" and splits["ARA NORM  0002"] == "arabic-speech-corpus"
    (truth.source / "wav" / "ARA NORM  0002.wav").unlink()
    with pytest.raises(InputError, match=r"corpus/orthographic-transcript\.txt, line 1: .*ARA NORM  0002.wav: no such"):
        build_data(truth.source, tmp_path / "out2", eval_share=0)
    (truth.source / "wav").rename(truth.source / "sounds")
    found, said = built(truth.source / "orthographic-transcript.txt", tmp_path / "out3", drop_invalid=True)
    assert len(found) == truth.utterances - 1 and "found by their names: 4" in said


def test_the_columns_of_sada_may_be_spelt_with_underscores(tmp_path: Path) -> None:
    truth = sada(tmp_path)
    for name in ("train", "valid", "test"):
        header = (tmp_path / f"{name}.csv").read_text(encoding="utf-8").split("\n")[0]
        rewrite(tmp_path / f"{name}.csv", 1, header, re.sub("(?<=[a-z])(?=[A-Z])", "_", header).lower())
    found, said = built(truth.source, tmp_path / "out")
    assert found == truth.speaker_of and "corpus: SADA" in said and "kept in misc: dialect (column speaker_dial" in said


def test_archives_that_were_not_extracted_are_named(tmp_path: Path) -> None:
    truth = masc(tmp_path)
    for clip in (tmp_path / "audio" / "train").iterdir():
        clip.unlink()
    (tmp_path / "audio" / "train" / "train_0.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match=r"4 audio files are not there, but archives are: .*train_0\.tar\.gz; extract"):
        build_data(truth.source, tmp_path / "out")


def test_a_table_of_videos_beside_their_sound(tmp_path: Path) -> None:
    rows, texts = [], {}
    for number, video in enumerate(VIDEOS):
        write_clip(tmp_path / f"{video}.wav", 5.0, rate=16_000, seed=number)
        for i in range(3):
            texts[f"نص {'ن' * (3 * number + i + 1)}"] = video
            text = f"نص {'ن' * (3 * number + i + 1)}"
            rows.append({"Video_ID": video, "start": 1.5 * i, "end": 1.5 * i + 1, "transcript": text})
    table = write_table(tmp_path / "clean.csv", ("Video_ID", "start", "end", "transcript"), rows)
    for source in (tmp_path, table):
        found, said = built(source, tmp_path / "out", overwrite=True)
        assert found == texts and "corpus: MASC" in said and "audio: column Video_ID" in said
    (tmp_path / f"{VIDEOS[1]}.wav").unlink()
    rewrite(table, 4, "4.0", "7.5")
    with pytest.raises(InputError, match=r"\(2\):") as caught:
        build_data(tmp_path, tmp_path / "out2")
    assert f"clean.csv, line 5 and 2 more entries: {tmp_path / VIDEOS[1]}: no such file" in str(caught.value)
    assert "clean.csv, line 4: ends at 7.5 s of " in str(caught.value)


def test_a_single_table_of_masc_is_read_too(tmp_path: Path) -> None:
    truth = masc(tmp_path)
    found, _ = built(tmp_path / "transcript" / "dev" / "dev.csv", tmp_path / "out")
    assert found == {text: who for text, who in truth.speaker_of.items() if who == VIDEOS[1]}


def test_subtitles_that_are_missing_or_wrong_are_named(tmp_path: Path) -> None:
    truth = CORPORA["masc_subtitles"](tmp_path)
    subtitles = tmp_path / "subtitles"
    rewrite(subtitles / f"{VIDEOS[0]}.ar.vtt", 9, "00:03.400", "00:02.400")
    (subtitles / f"{VIDEOS[1]}.ar.vtt").rename(tmp_path / "other.vtt")
    with pytest.raises(InputError, match=r"\(2\):") as caught:
        build_data(truth.source, tmp_path / "out")
    assert f"{VIDEOS[0]}.ar.vtt, line 9: a cut from 2.5 s of -0.1 s is impossible" in str(caught.value)
    assert "noisy_train.csv, line 2: " in str(caught.value) and f"{VIDEOS[1]}.ar.vtt: no such file" in str(caught.value)
    subtitles.rename(tmp_path / "texts")
    with pytest.raises(InputError, match="subtitles: no such folder; it holds the texts of the videos; extract"):
        build_data(tmp_path / "subsets" / "clean_train.csv", tmp_path / "out")


def test_common_voice_without_its_list_of_validated_clips(tmp_path: Path) -> None:
    truth = CORPORA["common_voice"](tmp_path)
    (truth.source / "validated.tsv").unlink()
    found, said = built(truth.source, tmp_path / "out")
    assert found == truth.speaker_of and "tables that are read together: train.tsv, dev.tsv, test.tsv" in said
    for name in ("train", "dev", "test"):
        (truth.source / f"{name}.tsv").unlink()
    with pytest.raises(InputError, match=r"give the table itself.*invalidated\.tsv"):
        build_data(truth.source, tmp_path / "out2")


def test_invalidated_clips_are_not_read_if_there_are_no_votes_either(tmp_path: Path) -> None:
    truth = CORPORA["common_voice"](tmp_path)
    for table in truth.source.glob("*ed.tsv"):
        rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
        kept = [i for i, name in enumerate(rows[0]) if name in ("client_id", "path", "sentence", "age", "locale")]
        write_lines(table, ["\t".join(row[i] for i in kept) for row in rows])
    found, said = built(truth.source, tmp_path / "out")
    assert found == truth.speaker_of and "validated.tsv is read" in said


def test_a_release_of_common_voice_is_found_below_its_folder(tmp_path: Path) -> None:
    truth = CORPORA["common_voice"](tmp_path)
    assert built(tmp_path, tmp_path / "out")[0] == truth.speaker_of
    write_table(tmp_path / "cv-corpus-21.0-2025-03-14" / "en" / "validated.tsv", COMMON_VOICE_COLUMNS, [], "\t")
    with pytest.raises(InputError, match=r"give the table itself"):
        build_data(tmp_path, tmp_path / "out2")


def test_tables_of_different_columns_are_not_mixed(tmp_path: Path) -> None:
    rows = [{"file": name, "text": text, "speaker": who} for name, text, who in sources(tmp_path)]
    write_table(tmp_path / "a.csv", ("file", "text", "speaker"), rows[:6])
    write_table(tmp_path / "b.csv", ("speaker", "file", "text"), rows[6:])  # the order does not count
    write_table(tmp_path / "votes.csv", ("name", "votes"), [{"name": "x", "votes": 1}])
    found, said = built(tmp_path, tmp_path / "out")
    assert len(found) == 12 and "tables that are not read: votes.csv" in said
    assert {r["misc"]["split"] for r in records_of(tmp_path / "out")} == {"a", "b"}
    write_table(tmp_path / "c.csv", ("file", "text", "speaker", "mood"), rows[:1])
    with pytest.raises(InputError, match=r"give the table itself.*a\.csv, b\.csv, c\.csv, votes\.csv"):
        build_data(tmp_path, tmp_path / "out2")


def damaged_sada(folder: Path) -> Path:
    table = folder / "test.csv"
    for line in (3, 4):
        text = table.read_text(encoding="utf-8").split("\n")[line - 1].split(",")[-2]
        rewrite(table, line, text, f"wa$ raAyak nuruwHo AlbaHor raqm{'w' * line}")
    return folder


def damaged_halabi(folder: Path) -> Path:
    source = folder / "arabic-speech-corpus" / "orthographic-transcript.txt"
    rewrite(source, 2, '"kamaA', "kamaA")
    rewrite(source, 3, "*alika", "alika")
    return source.parent


@pytest.mark.parametrize(
    ("corpus", "damage", "message"),
    [
        ("sada", damaged_sada, "2 texts are in Buckwalter's transliteration, but 14 are in Arabic letters"),
        (
            "halabi",
            damaged_halabi,
            '(?s)line 2: it must hold: "name of the clip" "text".*line 3: .*begin with a vowel mark: alika',
        ),
    ],
)
def test_a_transliteration_that_is_damaged_is_named(
    corpus: str, damage: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    CORPORA[corpus](tmp_path)
    with pytest.raises(InputError, match=message):
        build_data(damage(tmp_path), tmp_path / "out", eval_share=0)


def test_attributes_never_replace_what_a_record_says_itself(tmp_path: Path) -> None:
    rows = [{"file": n, "text": t, "speaker": s} for n, t, s in sources(tmp_path)]
    extra = {"duration": 99, "sample_id": "x", "ref_transcript": "y", "quality": "3.5", "Gender": "n/a", "AGE": "30"}
    table = write_table(tmp_path / "list.csv", (*rows[0], *extra), [row | extra for row in rows])
    built(table, tmp_path / "out")
    for record in records_of(tmp_path / "out"):
        misc = record["misc"]
        assert misc["duration"] < 1 and misc["sample_id"].startswith("clips/") and misc["ref_transcript"] != "y"
        assert (misc["quality"], misc["age"]) == (3.5, 30) and "gender" not in misc


def test_no_reader_can_replace_what_a_record_says_itself(tmp_path: Path) -> None:
    collection = Collection("table")
    misc = dict.fromkeys(OWN_KEYS, "x") | {"dialect": "Najdi"}
    collection.add(Utterance("a", tmp_path / "a.wav", "نعم", "who", "list, line 1", misc=misc))
    assert collection.utterances[0].misc == {"dialect": "Najdi"}


def test_the_card_says_the_licence_and_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = sada(tmp_path / "sada")
    command = ["build", str(truth.source), "--output_dir", str(tmp_path / "out"), "--eval_share", "0"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "left aside, segments of several speakers: 1" in said.err
    card = (tmp_path / "out" / DATA_CARD).read_text(encoding="utf-8")
    for part in ("# Training data for voice cloning from SADA", "| Hijazi | 4 | 1 |", "| Najdi | 12 | 3 |",
                 "| training | 16 | 4 |", "- segments of an unknown speaker: 1", "`split_by` speaker"):  # fmt: skip
        assert part in card
    summary = json.loads((tmp_path / "out" / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert summary["licence"] == "CC BY-NC-SA 4.0" and summary["corpus"].startswith("SADA")
    assert main(command) == 0, "the same command again changes nothing"
    stated = [*command, "--licence", "a contract of 2025"]
    assert main(stated) == 1 and DATA_CARD in capsys.readouterr().err
    assert main([*stated, "--overwrite"]) == 0
    assert "licence: a contract of 2025, as you state it" in (tmp_path / "out" / DATA_CARD).read_text(encoding="utf-8")


def test_a_licence_that_nobody_states_is_not_made_up(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"file": n, "text": t, "speaker": s} for n, t, s in sources(tmp_path)]
    table = write_table(tmp_path / "list.csv", ("file", "text", "speaker"), rows)
    _, said = built(table, tmp_path / "out")
    fact = "licence: none is known for these data"
    assert fact in said and fact in (tmp_path / "out" / DATA_CARD).read_text(encoding="utf-8")
    _, said = built(table, tmp_path / "out2", licence="CC0")
    assert "licence: CC0, as you state it" in said


def test_pairs_in_quotes_hold_commas_and_bars(tmp_path: Path) -> None:
    names = [write_clip(tmp_path / "wav" / f"A  {i}.wav", seed=i).name for i in range(3)]
    texts = ['نعم، قال: "حسنا" ومضى', "واحد, اثنان; ثلاثة", "أول | ثان"]
    write_lines(tmp_path / "list.txt", [f'"{name}"\t"{text}"' for name, text in zip(names, texts, strict=True)])
    found, _ = built(tmp_path, tmp_path / "out")
    assert found == dict.fromkeys(texts, tmp_path.name)
