"""Corpora that differ from their usual form as real copies do: other cards, folders, columns and values."""

import json
from pathlib import Path

import pytest

from tests.chatml_files import write_clip
from tests.voice_cloning.corpora.corpus_stores import as_audio, casablanca, clartts, sound, webdataset, write_parquet
from tests.voice_cloning.corpora.corpus_tables import CLIP_SECONDS, common_voice, halabi, rewrite, sada, write_table
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.card_licences import DATA_CARD, licences_beside
from voice_cloning.corpora.cell_values import by_usual_name
from voice_cloning.corpora.known_corpora import CLARTTS

HUB_CARD = "---\nlicense: {}\nlanguage:\n- ar\n---\n# Data\n"


def build(source: Path, output_dir: Path, *flags: str) -> int:
    """Run the command."""
    return main(["build", str(source), "--output_dir", str(output_dir), *flags])


def two_voices(folder: Path) -> Path:
    """Write a data set of no known corpus, with a card."""
    rows = range(6)
    columns = {
        "audio": ("audio", [as_audio(sound(0.5 + i / 10, 16_000, i), 16_000, f"{i}.wav") for i in rows]),
        "transcription": ("string", [f"مرحبا بكم {'ا' * (i + 1)}" for i in rows]),
        "speaker": ("int64", [i % 2 for i in rows]),
    }
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", columns)
    (folder / DATA_CARD).write_text(HUB_CARD.format("cc-by-nc-4.0"), encoding="utf-8")
    return folder


@pytest.mark.parametrize("part", [".", "data", "data/train-00000-of-00001.parquet"])
def test_the_licence_on_the_card_of_the_source_is_told_and_kept(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(two_voices(tmp_path / "hub") / part, tmp_path / "out") == 0
    assert "licence: cc-by-nc-4.0, as the README of the source names it" in capsys.readouterr().out
    (found,) = licences_beside(tmp_path / "out")
    assert found.forbids_commercial_use and found.licence.startswith("cc-by-nc-4.0")
    assert json.loads((tmp_path / "out" / "build_summary.json").read_text())["licence"] == "cc-by-nc-4.0"


@pytest.mark.parametrize(("named", "told"), [("cc-by-4.0", 1), ("cc-by-nc-4.0", 2)])
def test_a_card_that_names_another_licence_than_the_corpus_is_told_too(
    named: str, told: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = clartts(tmp_path / "hub")
    (truth.source / DATA_CARD).write_text(HUB_CARD.format(named), encoding="utf-8")
    assert build(truth.source, tmp_path / "out") == 0
    assert f"corpus: {CLARTTS.name}, told by its content" in capsys.readouterr().out
    found = licences_beside(tmp_path / "out")
    assert len(found) == told and found[0].licence.startswith(CLARTTS.licence)
    assert found[-1].forbids_commercial_use == (told == 2)


def test_the_card_of_an_earlier_build_is_no_card_of_the_source(tmp_path: Path) -> None:
    source = sada(tmp_path / "sada").source
    for _ in range(2):  # the second command finds the card of the first one
        assert build(source, source) == 0
    assert len(licences_beside(source)) == 1


def test_the_table_with_another_column_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = sada(tmp_path / "sada").source
    rewrite(source / "valid.csv", 1, "SegmentStart", "Segment_Begin")
    assert build(source, tmp_path / "out") == 1
    assert "valid.csv lacks SegmentStart and has Segment_Begin instead (unlike test.csv)" in capsys.readouterr().err


def test_wrong_flags_are_named_once_for_files_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--audio_column", "x", "--text_column", "y", "--speaker_from", "z"]
    assert build(casablanca(tmp_path / "in").source, tmp_path / "out", *flags) == 1
    said = capsys.readouterr().err
    for flag in ("--audio_column x", "--text_column y", "--speaker_from z"):
        assert said.count(f"\n  {flag}: unknown column") == 1, "on a line of its own"
    assert "(and 3 more files)" in said
    assert not (tmp_path / "out").exists()


def test_two_formats_of_one_list_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = sada(tmp_path / "sada").source
    for name in ("train.csv", "valid.csv"):
        (source / name).unlink()
    lines = (source / "test.csv").read_text(encoding="utf-8").replace(",", "\t")
    (source / "copy.tsv").write_text(lines, encoding="utf-8")
    assert build(source, tmp_path / "out") == 1
    assert "is a second list, in another format than" in capsys.readouterr().err


def test_lengths_that_are_not_end_minus_start_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = sada(tmp_path / "sada").source
    rewrite(source / "train.csv", 2, ",0.7,0.5,1.2,", ",9.9,0.5,1.2,")
    rewrite(source / "valid.csv", 2, ",0.7,0.5,1.2,", ",0.75,0.5,1.2,")  # rounded
    assert build(source, tmp_path / "out") == 0
    told = "rows whose SegmentLength is not SegmentEnd - SegmentStart, which is the cut: 1 (train.csv, line 2)"
    assert told in capsys.readouterr().out and told in (tmp_path / "out" / DATA_CARD).read_text(encoding="utf-8")


def test_the_folder_above_the_arabic_speech_corpus_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    halabi(tmp_path / "in")
    assert build(tmp_path / "in", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "5 utterances, voices: 1" in said and "corpus: Arabic Speech Corpus" in said


@pytest.mark.parametrize("unit", [1, 1000])
def test_clips_that_are_called_by_the_video_and_its_times_are_found(
    unit: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for number, video in enumerate(("-abcdefgh-1", "_x-YZ123456")):
        for i, seconds in enumerate(CLIP_SECONDS):
            start, end = 100.25 + 3 * i, round(100.25 + 3 * i + seconds, 2)
            name = f"{video}_{round(start * unit, 2):g}_{round(end * unit, 2):g}.wav"
            write_clip(tmp_path / "masc" / "clips" / name, seconds, rate=16_000, seed=10 * number + i)
            text = f"صباح الخير {'ن' * (4 * number + i + 1)}"
            rows.append({"video_id": video, "start": start, "end": end, "text": text})
    write_table(tmp_path / "masc" / "train.csv", ("video_id", "start", "end", "text"), rows)
    assert build(tmp_path / "masc", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "read whole: 8" in said and "8 utterances, voices: 2" in said
    summary = json.loads((tmp_path / "out" / "build_summary.json").read_text())
    assert summary["hours"] == pytest.approx(2 * sum(CLIP_SECONDS) / 3600)


def test_a_kind_of_audio_that_is_in_no_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = webdataset(tmp_path / "in").source
    assert build(source, tmp_path / "out", "--audio_column", "mp3") == 1
    said = capsys.readouterr().err
    assert said.count("--audio_column mp3: no audio of this kind") == 1 and "has wav (and 1 more file)" in said


def test_a_damaged_shard_is_not_said_to_lack_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = webdataset(tmp_path / "in").source
    shard = source / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:30_000])  # within the first clip
    assert build(source, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "train-000001.tar: is damaged" in said and "no key has a .txt" not in said


def test_no_speaker_with_two_clips_is_a_question_of_the_speakers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(casablanca(tmp_path / "in").source, tmp_path / "out", "--speaker_from", "file") == 1
    assert "none of its 8 speakers has two clips with different texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    "header",
    [
        ("Audio Path", "Raw Text", "Speaker ID", "Speaker Gender"),
        ("audioPath", "rawText", "speakerId", "speakerGender"),
        ("audio-path", "raw-text", "speaker-id", "speaker-gender"),
    ],
)
def test_usual_names_have_several_spellings(
    header: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for i in range(6):
        write_clip(tmp_path / "in" / f"{i}.wav", 0.5, seed=i)
        rows.append(dict(zip(header, (f"{i}.wav", f"مرحبا بكم {'ا' * (i + 1)}", f"s{i % 2}", "male"), strict=True)))
    write_table(tmp_path / "in" / "list.csv", header, rows)
    assert build(tmp_path / "in", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "6 utterances, voices: 2" in said and f"gender (column {header[3]})" in said


def test_a_usual_name_comes_before_another_spelling_of_it() -> None:
    assert by_usual_name(("Speaker ID", "speaker_id", "TEXT")) == {
        "speaker_id": "speaker_id",
        "speaker id": "Speaker ID",
        "text": "TEXT",
    }


def test_held_samples_that_are_no_audio_are_named_by_their_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = clartts(tmp_path / "in", scale=40_000.5).source  # neither -1..1 nor whole numbers of 16 bits
    assert build(source, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "row 0: column audio: its largest sample is" in said and " bytes" not in said


def test_an_mp3_without_audio_is_not_said_to_be_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = common_voice(tmp_path / "in").source
    clips = sorted((source / "clips").iterdir())
    clips[0].write_bytes(b"")
    clips[1].write_bytes(b"not MP3 at all" * 30)
    assert build(source, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "an empty file" in said and "holds no MPEG audio" in said and "does not exist" not in said
    assert build(source, tmp_path / "out", "--drop_invalid") == 0
    summary = json.loads((tmp_path / "out" / "build_summary.json").read_text(encoding="utf-8"))
    assert summary["utterances"] == 10 and len(summary["left_out"]["invalid_entries"]) == 2
