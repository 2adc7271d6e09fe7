"""Tests of prepare_data filter as a command: its table, its flags, a recogniser by its folder, kills."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boson_multimodal.errors import InputError
from tests.tools.test_check import ENVIRONMENT
from tests.training_runs import PROJECT
from tests.voice_cloning.data_check.filtered_data import (
    WORDS,
    Hearing,
    clean_records,
    dropped,
    kept_ids,
    pair,
    planted_records,
    write_source,
)
from tools.prepare_data import filter as command
from tools.prepare_data.__main__ import main, parse_arguments, run_verb


def run_command(*arguments: object) -> int:
    return run_verb(parse_arguments(["filter", "--num_workers", "1", "--speaker_model", "none", *map(str, arguments)]))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two faultless samples and one with a short target."""
    folder = tmp_path_factory.mktemp("source")
    return write_source(folder, [*clean_records(folder, 2), pair(folder, "bad", 500, target="short")])


def test_the_command_prints_hours_by_rule_speaker_and_dialect(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(source, "--output_dir", tmp_path / "out", "--without", "silence") == 0
    shown = capsys.readouterr().out
    assert f"{source}: train, keeps 2 of 3 samples, 0.002 of 0.002 h; letters per second 2.5 to 25" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["length", "1", "1", "0.000", "--target_seconds", "0.5", "30", "--reference_seconds", "3", "10"] in lines
    assert ["errors", "0", "0", "0.000"] in lines and ["Najdi", "1", "1", "0.001", "0.001"] in lines
    assert not any(line[:1] == ["silence"] for line in lines)
    assert "not applied: transcript (no recogniser is given; --asr names one)" in shown
    assert "speaker(s) keep fewer than 2 samples: s2 (0 of 1), s0 (1 of 1), s1 (1 of 1)" in shown
    assert f"reasons: {tmp_path / 'out' / 'dropped.jsonl'}" in shown
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean0", "clean1"]


def test_a_condition_says_what_it_keeps_before_the_clips_are_measured(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = "dialect == 'Najdi' or '\u200f' in dialect"
    assert run_command(source, "--output_dir", tmp_path / "out", "--where", where, "--rules", "length") == 0
    first, *shown = capsys.readouterr().out.splitlines()
    shown_where = f"--where {where}".replace("\u200f", "<U+200F>")
    assert first == f"{shown_where}: keeps 1 of 3, leaves out 2 (1 of them because a value is missing)"
    rows = [line.split(maxsplit=4) for line in shown]
    assert [row[0] for row in rows[3:5]] == ["where", "length"] and rows[3] == ["where", "2", "2", "0.001", shown_where]
    assert {(line["rule"], line["detail"]) for line in dropped(tmp_path / "out")} == {("where", where)}
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean0"]


def test_records_without_a_field_of_the_template_are_dropped(source: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.json"
    turns = {name: f"{{{name}}}" for name in ("reference_text", "target_text")}
    template.write_text(json.dumps({"system": "Dialect: {dialect}", **turns}), encoding="utf-8")
    assert run_command(source, "--output_dir", tmp_path / "out", "--prompt_template", template) == 0
    lines = {(line["sample_id"], line["rule"], line["kind"]) for line in dropped(tmp_path / "out")}
    assert lines == {("bad", "errors", "malformed_record"), ("bad", "length", "target_seconds")}
    assert all("dialect" in line["detail"] for line in dropped(tmp_path / "out") if line["rule"] == "errors")
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean0", "clean1"]


def test_a_dry_run_says_that_it_writes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(source, "--output_dir", tmp_path / "out", "--dry_run", "--target_seconds", 0.1, 30) == 0
    assert "kept: 3 of 3 samples" in (shown := capsys.readouterr().out)
    assert "dry run: nothing but the measures is written" in shown
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["measures"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rules", "noise", "speed", "snr"], r"(?s)\(2\).*--rules noise: no such rule.*--rules speed: no such rule"),
        (["--min_snr", "nan", "--max_cer", "0.1"], r"(?s)\(2\).*--min_snr nan.*--max_cer: a bound of the rule"),
        (["--min_snr", "30", "--without", "snr"], "--min_snr: a bound of the rule snr, which does not apply"),
        (["--speaker_threshold", "0.9"], "--speaker_threshold: of the rule reference_of_another_voice, which"),
        (["--min_clips_per_speaker", "0", "--asr_revision", "x"], r"(?s)\(2\).*without --asr"),
        (
            ["--num_workers", "0", "--without", "noise", "--min_snr", "-3", "--asr", "no/folder"],
            "(?s)--without noise.*--num_workers 0.*--min_snr -3.*--asr no/folder",
        ),
        (["--asr", "no/such/folder"], "--asr no/such/folder: no such folder"),
        (
            ["--where", "dialect = 'Najdi'", "--prompt_template", "none.json", "--rules", "where", "--min_snr", "-3"],
            "(?s)--rules where: cannot be chosen.*write ==.*--min_snr -3.*none.json",
        ),
        (["--where", "city == 'Riyadh'"], "city: no such value"),
        (["--where", "speaker == 's7'"], "keeps none of 3; there are these values"),
    ],
)
def test_wrong_flags_are_named_before_any_clip_is_read(
    flags: list[str], message: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_command(source, "--output_dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_a_wrong_flag_ends_the_program_with_its_status(source: Path, tmp_path: Path) -> None:
    assert main(["filter", str(source), "--output_dir", str(tmp_path / "out"), "--rules", "none"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["filter", str(source), "--output_dir", str(tmp_path / "out"), "--min_noise", "1"])


def test_the_recogniser_of_the_flag_hears_the_clips(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hearing = Hearing({96_000: " ".join(WORDS), 9_600: "نعم"})
    hearing.folder = tmp_path / "model"  # an empty one: its files tell recognisers of one name apart
    monkeypatch.setattr(command, "find_recogniser", lambda *_: hearing)
    flags = ("--asr", "some/model", "--rules", "transcript", "--max_cer", "0.9", "--output_dir", tmp_path / "out")
    assert run_command(source, *flags) == 0
    assert kept_ids(tmp_path / "out" / "train.json") == ["clean0", "clean1", "bad"]
    assert run_command(source, *flags[:-3], "0.5", *flags[-2:], "--overwrite", "--dry_run") == 0
    assert hearing.heard == 6  # each clip once


@pytest.mark.slow
def test_a_killed_filter_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    path = write_source(tmp_path, [*clean_records(tmp_path, 30), *planted_records(tmp_path)])

    def words(out: Path) -> list[str]:
        flags = ["--output_dir", out, "--num_workers", "2", "--speaker_model", "none"]
        return [sys.executable, "-m", "tools.prepare_data", "filter", path, *flags]

    kept, rng = tmp_path / "out" / "measures" / "clips.jsonl", random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(words(tmp_path / "out"), env=ENVIRONMENT, cwd=PROJECT, stdout=subprocess.DEVNULL)
        wanted = rng.randrange(20_000, 90_000) + (kept.stat().st_size if kept.exists() else 0)
        while not kept.exists() or kept.stat().st_size < wanted:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    for out in (tmp_path / "out", tmp_path / "whole"):
        subprocess.run(words(out), env=ENVIRONMENT, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    for name in ("train.json", "dropped.jsonl", "filter_summary.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    measured = [json.loads(line)["clip"] for line in kept.read_bytes().splitlines() if line.endswith(b"}}")]
    assert len(measured) == len(set(measured)) and dropped(tmp_path / "out")
