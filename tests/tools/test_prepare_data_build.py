"""The command ``prepare_data build``: what it prints, and what it leaves out."""

import json
from pathlib import Path

import pytest

from tests.chatml_files import write_clip
from tests.voice_cloning.corpora.source_forms import SPEAKERS, clips_form, records_of, write_lines
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.build import SUMMARY_FILE


def test_a_speaker_with_one_clip_is_listed_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = clips_form(tmp_path / "source")
    write_clip(source / "einsam" / "0.wav").with_suffix(".txt").write_text("وحدي", encoding="utf-8")
    for i in range(2):
        write_clip(source / "echo" / f"{i}.wav", seed=i).with_suffix(".txt").write_text("نفس الكلام", encoding="utf-8")
    assert main(["build", str(source), "--output_dir", str(tmp_path / "out"), "--eval_share", "0"]) == 0
    summary = json.loads((tmp_path / "out" / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert summary["left_out"]["speakers_with_one_clip"] == ["einsam"]
    assert summary["left_out"]["utterances_without_other_words"] == ["echo/0", "echo/1"]
    assert {r["speaker"] for r in records_of(tmp_path / "out")} == set(SPEAKERS)
    assert "left out, speakers with one clip (1): einsam" in capsys.readouterr().err


def test_all_problems_are_listed_at_once_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "good.wav")
    (tmp_path / "broken.wav").write_bytes(b"RIFF, but no more")
    rows = ["path,text,speaker", "good.wav,نعم,a", "gone.wav,نعم,a", "broken.wav,نعم,a", "good.wav,لا,a", ",نعم,a"]
    rows += ["other.wav,,a", "third.wav,نعم,", "good.wav,<|eot_id|>,a", f"{'x' * 300}.wav,نعم,a"]
    table = write_lines(tmp_path / "list.csv", rows)
    assert main(["build", str(table), "--output_dir", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    for part in (
        "gone.wav: no such file",
        "broken.wav: not readable as audio",
        "good: 3 utterances have this id",
        "line 6: no audio file is named",
        "line 7: the text is empty",
        "line 8: no speaker is named",
        "<|eot_id|>",
        "xxx.wav: no such file",
    ):
        assert part in message
    assert not (tmp_path / "out").exists()
