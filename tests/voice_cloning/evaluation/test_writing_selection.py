"""A choice among checkpoints: which folders take part, what is checked first, what is written, and what cards say."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from boson_multimodal.errors import InputError, Problems
from lora_config import ADAPTER_FILE
from tools.evaluate import parse_arguments, settings_of
from voice_cloning.adapters.selection_lines import adapter_sha256, decided_by, read_selection, selection_lines
from voice_cloning.evaluation import run_selection
from voice_cloning.evaluation.retention import retention_settings
from voice_cloning.evaluation.run_selection import (
    check_selection,
    checkpoints_among,
    other_adapters,
    run_checkpoints,
    selection_line,
    write_selection,
)
from voice_cloning.evaluation.systems import find_systems
from voice_cloning.training.run_directory import LOCK_FILE

A, B, C = "checkpoint-000010", "checkpoint-000020", "checkpoint-000030"
LOWER = {"value": -0.1, "low": -0.2, "high": -0.05}
INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the weights of two checkpoints, which nobody loads."""
    for name in (A, B):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / ADAPTER_FILE).write_text(name)
    return tmp_path / "run"


def adapters_of(run: Path) -> dict[str, Path]:
    return {path.name: path for path in run_checkpoints(str(run))}


def report_of(chosen: str | None, set_name: str = "one.json", **fields: Any) -> dict[str, Any]:
    comparisons = [
        {"candidate": A, "is_better": True, "rule": "the first"},
        {"candidate": B, "compared_with": A, "is_better": True, "rule": "wer_scoring", "difference": LOWER},
    ]
    return {
        "set": {"name": set_name, "sentences": 4},
        "recogniser": "hears",
        "speaker_model": None,
        "seeds": [0],
        "sampling": {},
        "systems": [{"name": n, "adapter_scale": 1.0, "figures": {"wer_scoring": INTERVAL}} for n in (A, B)],
        "retention": None,
        "selection": {"chosen": chosen, "by_eval_loss": A, "comparisons": comparisons},
        **fields,
    }


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the checkpoints whose cards are written."""
    written: list[str] = []
    monkeypatch.setattr(run_selection, "write_checkpoint_card", lambda path, _: written.append(path.name))
    return written


# -- which folders take part -------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_named_too_takes_part_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.parent / "latest").symlink_to(run / B)
    (run.parent / "link").symlink_to(run)
    monkeypatch.chdir(run.parent)
    words = ["--test_set", "s", "--output_dir", "o", "--adapter", f"run/{A}/", "latest", "other", "--select", "link"]
    flags = parse_arguments(words)
    found = settings_of(flags, torch.device("cpu"), run_checkpoints(flags.select), Problems()).systems.adapters
    assert found == ("other", f"link/{A}", f"link/{B}")
    assert other_adapters(["other"], []) == ["other"]
    assert checkpoints_among({"x": Path(f"link/{A}"), "y": Path("latest")}, Path("link")) == {
        "x": run / A,
        "y": run / B,
    }


def test_a_folder_of_the_run_that_is_no_checkpoint_is_no_candidate(run: Path) -> None:
    (run / "exported").mkdir()
    assert checkpoints_among({**adapters_of(run), "exported": run / "exported"}, run) == adapters_of(run)


def test_one_checkpoint_leaves_no_choice(run: Path) -> None:
    (run / B / ADAPTER_FILE).unlink()
    with pytest.raises(InputError, match="1 checkpoints in it, and there is something to choose from 2 on"):
        run_checkpoints(str(run))


def test_systems_have_one_name_on_both_sets(run: Path, tmp_path: Path) -> None:
    """A folder of WAVs is no system on the retention set. Its name is taken all the same."""
    (tmp_path / "wavs" / B).mkdir(parents=True)
    words = ["--test_set", "s", "--output_dir", "o", "--select", str(run), "--wavs", str(tmp_path / "wavs" / B)]
    settings = settings_of(parse_arguments(words), torch.device("cpu"), run_checkpoints(str(run)), Problems())
    names = [system.name for system in find_systems(settings.systems)]
    assert names == ["base", A, f"run/{B}", f"wavs/{B}"]
    kept = retention_settings(settings, tmp_path / "old.json", None)
    assert [system.name for system in find_systems(kept.systems)] == names[:3]


# -- before anything is spoken -----------------------------------------------------------------------------------------


def test_the_adapters_of_a_call_must_hold_checkpoints_of_the_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 of the adapters are checkpoints in this folder"):
        check_selection(tmp_path / "other", adapters_of(run))
    assert check_selection(run, adapters_of(run)) == []


def test_a_run_that_cannot_be_written_is_named_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path.name == A)
    with pytest.raises(InputError, match="cannot be written; make it writable") as caught:
        check_selection(run, adapters_of(run))
    assert f"{run}: " in str(caught.value) and f"{run / B}: " in str(caught.value) and A not in str(caught.value)


def test_a_run_that_still_trains_is_named(run: Path) -> None:
    with (run / LOCK_FILE).open("w") as lock:
        assert check_selection(run, adapters_of(run)) == []
        fcntl.flock(lock, fcntl.LOCK_EX)
        (warning,) = check_selection(run, adapters_of(run))
    assert f"--select {run}: a process is training into it" in warning


# -- what is written ---------------------------------------------------------------------------------------------------


def test_a_choice_by_another_set_is_replaced_and_that_is_said(
    run: Path, cards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_selection(run, adapters_of(run), report_of(B))
    write_selection(run, adapters_of(run), report_of(B))
    assert capsys.readouterr().err == "" and cards == [A, B] * 2
    write_selection(run, adapters_of(run), report_of(A, "two.json"))
    assert f"selection.json: replaces the choice of {B} by set " in capsys.readouterr().err
    assert json.loads((run / "selection.json").read_text())["folder"] == A
    (run / "selection.json").write_text("[]")
    write_selection(run, adapters_of(run), report_of(None))
    assert "was damaged, and is replaced" in capsys.readouterr().err
    assert "folder" not in json.loads((run / "selection.json").read_text())


def test_a_checkpoint_that_was_removed_meanwhile_gets_no_card(
    run: Path, cards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = adapters_of(run)
    (run / A / ADAPTER_FILE).unlink()
    (run / A).rmdir()
    write_selection(run, adapters, report_of(B))
    assert cards == [B] and f"{run / A}: has been removed" in capsys.readouterr().err
    written = json.loads((run / "selection.json").read_text())["checkpoints"]
    assert written[A]["adapter_sha256"] is None and written[B]["adapter_sha256"] == adapter_sha256(run / B)


def test_a_choice_that_cannot_be_written_is_named(run: Path, cards: list[str]) -> None:
    (run / "selection.json").mkdir()
    with pytest.raises(InputError, match=r"--select .*run: the choice cannot be written into the run"):
        write_selection(run, adapters_of(run), report_of(B))
    assert cards == []


def test_a_run_without_an_evaluation_loss_has_no_choice_by_it() -> None:
    selection = report_of(B)["selection"]
    assert "by loss: " + A in selection_line(selection)
    assert selection_line(selection | {"by_eval_loss": None}).endswith("no evaluation loss of these checkpoints")


def test_a_choice_that_speech_did_not_make_is_called_so() -> None:
    selection = report_of(A)["selection"]
    assert "nothing but the loss" not in selection_line(selection)
    selection["comparisons"][1] |= {"is_better": False, "rule": "eval_loss", "difference": None}
    told = selection_line(selection)
    assert told.startswith(f"best checkpoint: {A} (no later one is better)") and "nothing but the loss decided" in told


# -- what cards say ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_was_trained_anew_is_not_the_chosen_one(run: Path, cards: list[str]) -> None:
    """A run that is resumed further back writes another checkpoint of the same name."""
    write_selection(run, adapters_of(run), report_of(B))
    assert read_selection(run, run / B)["chosen"] and not read_selection(run, run / A)["chosen"]
    assert read_selection(run, run / C) is None, "it was trained later"
    (run / B / ADAPTER_FILE).write_text("other weights")
    assert read_selection(run, run / B) is None
    assert read_selection(run, run / A)["decided_by"] == f"{B} is better by WER, -0.100 (-0.200 to -0.050)"


def test_a_card_names_the_scale_of_the_adapter(run: Path, cards: list[str]) -> None:
    report = report_of(B)
    for system in report["systems"]:
        system["adapter_scale"] = 0.7
    write_selection(run, adapters_of(run), report)
    assert "- this speech was made with `--adapter_scale 0.7`" in selection_lines(read_selection(run, run / B))


@pytest.mark.parametrize(
    ("name", "comparison", "reason"),
    [
        (A, {"is_better": False, "rule": "eval_loss", "difference": None}, "no later one is better"),
        (B, {"is_better": False, "rule": "eval_loss", "difference": None}, f"{A} is better by the evaluation loss"),
        (B, {"is_better": True, "rule": "eval_loss", "difference": None}, f"better than {A} by the evaluation loss"),
        (A, {"is_better": True, "rule": "eval_loss", "difference": None}, f"{B} is better by the evaluation loss"),
        (B, {"is_better": False, "rule": "none", "difference": None}, f"nothing says that it is better than {A}"),
        (
            B,
            {"is_better": False, "rule": "stop_rate", "difference": LOWER},
            f"{A} is better by stop rate, +0.100 (+0.050 to +0.200)",
        ),
        (
            B,
            {"is_better": True, "rule": "wer_scoring, not certain", "difference": LOWER},
            f"better than {A} by WER, which is not certain, -0.100 (-0.200 to -0.050)",
        ),
    ],
)
def test_the_reason_of_a_choice(name: str, comparison: dict[str, Any], reason: str) -> None:
    comparisons = [
        {"candidate": A, "is_better": True, "rule": "the first"},
        {"candidate": B, "compared_with": A, **comparison},
    ]
    assert decided_by(comparisons, name) == reason


def test_the_reason_of_a_checkpoint_that_has_forgotten() -> None:
    comparisons = [{"candidate": A, "is_better": False, "rule": "retention: WER changed"}]
    assert decided_by(comparisons, A) == "out by retention: WER changed"
