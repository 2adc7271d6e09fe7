"""Corpora that differ from their usual form as real copies do: other cards, folders, columns and values."""

import json
from pathlib import Path

import pytest

from tests.voice_cloning.corpora.corpus_stores import as_audio, casablanca, clartts, sound, write_parquet
from tests.voice_cloning.corpora.corpus_tables import rewrite, sada
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.card_licences import DATA_CARD, licences_beside
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
