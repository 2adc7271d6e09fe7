"""A run that was stopped or has crashed ends with the bits of an uninterrupted one."""

import signal
from pathlib import Path

import pytest
from torch import Tensor

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.errors import InputError
from tests.training_runs import EVERY_GROUP, assert_same_adapter, flags, metrics, trainer
from voice_cloning.training.fused_layers import FusedLayers


class Crash(Exception):
    """Simulates a process that dies."""


def crash_after(subject: ArabicVoiceCloningDistributedTrainer, step: int) -> None:
    """Train and die after ``step`` updates, before anything of the last update is written."""
    after_step = subject._after_step

    def dying(*args: object) -> None:
        if subject.components.state.step == step:
            raise Crash
        after_step(*args)

    subject._after_step = dying
    with pytest.raises(Crash):
        subject.train()


ACCUMULATED = {"batch_size": 3, "gradient_accumulation_steps": 2, "lora_targets": EVERY_GROUP}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        ACCUMULATED,
        {"lora_dropout": 0.0, "recompute": "none"},
        pytest.param({"lora_dropout": 0.0, "recompute": "ffn"}, marks=pytest.mark.slow),
        {"lora_dropout": 0.0, "recompute": "layer", **ACCUMULATED},
    ],
    ids=["dropout", "dropout, accumulation", "none", "ffn", "layer, accumulation"],
)
def test_a_crashed_run_ends_with_the_bits_of_an_uninterrupted_one(
    demo: Path, tmp_path: Path, overrides: dict[str, object]
) -> None:
    """The run crashes three times, in the middle of an epoch and of a logging interval.

    With dropout it takes the plain layers, and without it the fused ones.
    """
    uninterrupted, crashed = tmp_path / "uninterrupted", tmp_path / "crashed"
    settings = {"max_steps": 8, "logging_steps": 5, "save_steps": 3, **overrides}
    summary = trainer(demo, uninterrupted, **settings).train()
    for step in (2, 5, 7):
        crash_after(trainer(demo, crashed, **settings), step)
    subject = trainer(demo, crashed, **settings)
    assert subject.components.state.step == 6
    is_fused = isinstance(subject.components.model.get_base_model().label_layers, FusedLayers)
    assert is_fused == (overrides.get("lora_dropout") == 0.0)
    assert subject.train().finished
    assert_same_adapter(summary.checkpoint, crashed / summary.checkpoint.name)
    assert metrics(crashed) == metrics(uninterrupted)


def test_a_stop_signal_saves_and_the_same_command_resumes(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = trainer(demo, tmp_path / "uninterrupted").train()
    subject = trainer(demo, tmp_path / "stopped")
    optimizer_step = subject._optimizer_step

    def interrupted(*args: object) -> Tensor:
        if subject.components.state.step == 4:
            signal.raise_signal(signal.SIGTERM)
        return optimizer_step(*args)

    subject._optimizer_step = interrupted
    summary = subject.train()
    assert (summary.step, summary.finished, summary.stopped_by) == (5, False, signal.SIGTERM)
    assert summary.checkpoint.name == "checkpoint-000005"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    trainer(demo, tmp_path / "stopped").train()
    assert_same_adapter(uninterrupted.checkpoint, tmp_path / "stopped" / "checkpoint-000006")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "uninterrupted")


@pytest.mark.parametrize("step", [4, 6], ids=["on the way", "the last"])
def test_an_evaluation_that_a_stop_signal_interrupted_is_repeated_on_resume(
    demo: Path, tmp_path: Path, step: int
) -> None:
    uninterrupted = trainer(demo, tmp_path / "uninterrupted").train()
    subject = trainer(demo, tmp_path / "stopped", max_tokens_per_batch=512)
    forward = subject._training_step

    def interrupted(*args: object) -> object:
        if subject.components.state.step == step and not subject.components.model.training:
            signal.raise_signal(signal.SIGINT)
        return forward(*args)

    subject._training_step = interrupted
    summary = subject.train()
    assert (summary.step, summary.finished, summary.stopped_by) == (step, False, signal.SIGINT)
    assert [line["step"] for line in metrics(tmp_path / "stopped") if "eval_loss" in line] == [4][: step // 6]
    assert trainer(demo, tmp_path / "stopped").train().finished
    assert_same_adapter(uninterrupted.checkpoint, tmp_path / "stopped" / "checkpoint-000006")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "uninterrupted")


def test_a_run_can_resume_from_a_named_checkpoint(demo: Path, tmp_path: Path) -> None:
    first = trainer(demo, tmp_path / "first", save_steps=2)
    summary = first.train()
    other = trainer(demo, tmp_path / "other", save_steps=2, resume=tmp_path / "first" / "checkpoint-000004")
    assert other.components.state.step == 4
    assert_same_adapter(other.train().checkpoint, summary.checkpoint)
    with pytest.raises(InputError, match="no trainer_state.json"):
        trainer(demo, tmp_path / "third", resume=tmp_path)


def test_a_finished_run_says_so_and_does_nothing(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(demo, tmp_path / "out", max_steps=2)
    assert program.main(arguments) == 0
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.name not in (".lock", "run.json")}
    monkeypatch.setattr(program, "create_higgs_audio_lora_model", None)
    capsys.readouterr()
    assert program.main(arguments) == 0
    assert "finished: 2 steps" in capsys.readouterr().out
    assert written == {p: p.stat().st_mtime_ns for p in written}
