"""Checkpoints are written beside training: as they were at their step, whole, and waited for when it matters."""

import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from tests.full_disks import fill, read_only, small_disk
from tests.run_damages import SETTINGS, Runs
from tests.training_runs import EVERY_GROUP, assert_same_adapter, flags, metrics, trainer
from voice_cloning.adapters.model_card import write_checkpoint_card
from voice_cloning.training import checkpoint_writer
from voice_cloning.training.checkpoint_writer import CheckpointCopy
from voice_cloning.training.checkpoints import CHECKSUMS, read_state
from voice_cloning.training.state import TrainingState

Write = Callable[[TrainingState, CheckpointCopy, Path], None]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.002)


def write_by(subject: ArabicVoiceCloningDistributedTrainer, around: Callable[[int, Callable[[], None]], None]) -> None:
    """Let a function write the checkpoints. It gets the step, and a function that writes."""
    write = subject._write_checkpoint
    subject._write_checkpoint = lambda state, *others: around(state.step, lambda: write(state, *others))


def after_step(subject: ArabicVoiceCloningDistributedTrainer, step: int, work: Callable[[], None]) -> None:
    """Do something after a step, when its checkpoint has been begun."""
    after = subject._after_step

    def doing(*args: Any) -> None:
        after(*args)
        if subject.components.state.step == step:
            work()

    subject._after_step = doing


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


# -- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lora",
    [
        {"lora_targets": EVERY_GROUP, "lora_dropout": 0.0},
        pytest.param({"use_dora": True, "lora_targets": ["attention", "heads"]}, marks=pytest.mark.slow),
        pytest.param({"lora_targets": ["attention", "heads"]}, marks=pytest.mark.slow),
    ],
    ids=["every group", "DoRA", "plain layers"],
)
def test_a_checkpoint_holds_byte_for_byte_what_was_there_at_its_step(
    demo: Path, tmp_path: Path, lora: dict[str, Any]
) -> None:
    """It is written two steps later, and compared with what the training thread writes at once."""
    subject = trainer(demo, tmp_path / "run", **{**SETTINGS, "max_steps": 4, **lora})
    save, run = subject._save, subject.components

    def saving(*args: Any, **words: Any) -> None:
        folder = tmp_path / f"at-{run.state.step}"
        folder.mkdir()
        run.state.save(folder)
        run.model.save_pretrained(folder, save_embedding_layers=False)
        write_checkpoint_card(folder, run.opened.directory.folder)
        run.optimizer.save(folder)
        save(*args, **words)

    def late(step: int, write: Callable[[], None]) -> None:
        until(lambda: run.state.step == 4)
        write()

    subject._save = saving
    write_by(subject, late)
    assert subject.train().finished
    for step in (2, 4):
        found, wanted = tmp_path / "run" / f"checkpoint-{step:06d}", tmp_path / f"at-{step}"
        for name in ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt"):
            assert (found / name).read_bytes() == (wanted / name).read_bytes(), name
        assert {k: v for k, v in read_state(found).items() if k != CHECKSUMS} == read_state(wanted)
        # Beside it there is no run.json, so this card knows nothing of the run.
        assert (wanted / "README.md").stat().st_size < (found / "README.md").stat().st_size
    assert not list((tmp_path / "run").glob(".writing-*"))


def test_an_error_of_the_thread_ends_the_run_with_its_own_message(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "run", **{**SETTINGS, "max_steps": 500, "save_steps": 500, "eval_steps": 2})

    def failing(step: int, write: Callable[[], None]) -> None:
        raise KeyError("a clip is missing")

    write_by(subject, failing)
    after_step(subject, 2, lambda: until(lambda: not any("checkpoint" in t.name for t in threading.enumerate())))
    with pytest.raises(KeyError, match="a clip is missing"):
        subject.train()
    assert subject.components.state.step == 3
    assert not list((tmp_path / "run").glob("*checkpoint-*"))


def test_a_stop_signal_waits_for_its_checkpoint(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "run", **{**SETTINGS, "max_steps": 500, "save_steps": 3, "eval_steps": 500})
    write_by(subject, lambda step, write: (time.sleep(0.3), write()))
    after_step(subject, 3, lambda: signal.raise_signal(signal.SIGTERM))
    summary = subject.train()
    assert (summary.step, summary.stopped_by) == (3, signal.SIGTERM)
    assert (summary.checkpoint / "trainer_state.json").is_file()


# -- a disk that is slow -----------------------------------------------------------------------------------------------


def test_a_disk_that_stalls_is_said_to_and_training_goes_on(
    demo: Path, tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It stalls while the checkpoint of step 2 is written, until that of step 4 is due and has waited for it."""
    monkeypatch.setattr(checkpoint_writer, "SLOW_SECONDS", 0.01)
    subject = trainer(demo, tmp_path / "run", **SETTINGS)
    steps = []

    def stalling(step: int, write: Callable[[], None]) -> None:
        if step == 2:
            until(lambda: subject.components.state.step == 4)
            time.sleep(0.2)
        steps.append((step, subject.components.state.step))
        write()

    write_by(subject, stalling)
    after_step(subject, 2, lambda: time.sleep(0.02))
    with caplog.at_level("INFO"):
        assert subject.train().finished
    assert steps[:2] == [(2, 4), (4, 4)]
    path = tmp_path / "run" / "checkpoint-000002"
    first, second = said(caplog, f"{path}: has been written for")
    assert first.endswith("because the disk is slow; training goes on")
    assert second.endswith("because the disk is slow; training waits for it, for at most 300 s")
    assert len(said(caplog, "the checkpoint of step 2 is written now, after ")) == 1
    for step in (2, 4, 6):
        name = f"checkpoint-{step:06d}"
        assert_same_adapter(tmp_path / "run" / name, runs.whole / name)


def test_a_disk_that_never_answers_ends_the_run_when_the_next_checkpoint_is_due(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint_writer, "LONGEST_WAIT_SECONDS", 0.1)
    answers, out = threading.Event(), tmp_path / "run"
    write = ArabicVoiceCloningDistributedTrainer._write_checkpoint

    def hanging(self: ArabicVoiceCloningDistributedTrainer, state: TrainingState, *others: Any) -> None:
        answers.wait(60)
        write(self, state, *others)

    monkeypatch.setattr(ArabicVoiceCloningDistributedTrainer, "_write_checkpoint", hanging)
    assert program.main(flags(demo, out, **SETTINGS)) == 1
    error = capsys.readouterr().err
    said_at_the_end = (
        f"error: {out}: the disk does not answer; the checkpoint of step 2 has been written for [0-9]+ s. "
    )
    assert re.fullmatch(f"{said_at_the_end}Run the same command again when it does: it begins at step 0\n", error)
    assert max(line["step"] for line in metrics(out)) == 4
    answers.set()


# -- a disk that takes nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", [0.05, 1000.0], ids=["tried again", "next one"])
def test_a_full_disk_that_is_freed_costs_at_most_its_checkpoint(
    demo: Path,
    tmp_path: Path,
    runs: Runs,
    retry: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(checkpoint_writer, "RETRY_SECONDS", retry)
    with small_disk(tmp_path / "disk", 12_000) as disk:
        out = disk / "run"
        subject = trainer(demo, out, **SETTINGS)
        after_step(subject, 1, lambda: fill(disk, 0))

        def free() -> None:
            until(lambda: bool(said(caplog, "The checkpoint of step 2 is not written; training goes on")))
            (disk / "filler").unlink()
            until(lambda: retry > 1 or (out / "checkpoint-000002").exists())

        after_step(subject, 3, free)
        with caplog.at_level("INFO"):
            assert subject.train().finished
        (line,) = said(caplog, "The checkpoint of step 2 is not written")
        assert line.startswith(f"{out}: the disk is full (No space left on device; ")
        assert line.endswith("The newest checkpoint is none yet")
        for step in (2, 4, 6) if retry < 1 else (4, 6):
            name = f"checkpoint-{step:06d}"
            assert_same_adapter(out / name, runs.whole / name)
        assert (out / "checkpoint-000002").exists() == bool(said(caplog, "of step 2 is written now")) == (retry < 1)
        assert metrics(out) == metrics(runs.whole), "no line is lost"


def test_a_folder_that_becomes_read_only_ends_the_run_at_the_next_checkpoint(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, after = tmp_path / "run", ArabicVoiceCloningDistributedTrainer._after_step

    def doing(self: ArabicVoiceCloningDistributedTrainer, *args: Any) -> None:
        after(self, *args)
        if self.components.state.step == 2:
            self.components.checkpoints.finish()
            monkeypatch.setattr(checkpoint_writer.RunDirectory, "save_checkpoint", saving)

    save = checkpoint_writer.RunDirectory.save_checkpoint

    def saving(*args: Any) -> Path:
        with read_only(out):
            return save(*args)

    monkeypatch.setattr(ArabicVoiceCloningDistributedTrainer, "_after_step", doing)
    assert program.main(flags(demo, out, **{**SETTINGS, "max_steps": 500})) == 1
    error = capsys.readouterr().err
    assert re.search(
        f"error: {out}: cannot be written .Permission denied; .*it resumes from {out}/checkpoint-0*2\n", error
    )
    assert max(line["step"] for line in metrics(out)) == 6, "it went on after step 4"
    assert sorted(path.name for path in out.glob("*checkpoint-*")) == ["checkpoint-000002"]
