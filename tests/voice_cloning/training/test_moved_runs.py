"""A run goes on with another number of processes: its steps are the same, and what changes is said or refused."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.simulated_ranks import SimulatedTrainer, Step, simulated
from voice_cloning.training.checkpoints import read_run

FOUR: dict[str, Any] = {
    "max_tokens_per_batch": 330,
    "max_steps": 6,
    "save_steps": 2,
    "logging_steps": 1,
    "lora_targets": ["attention", "audio_mlp"],
}
"""Steps of four micro-batches."""
SAME_STEPS = [(4, 1), (2, 2), (1, 4)]
"""(processes, accumulation)."""


@pytest.fixture(scope="module", params=[0.0, 0.1], ids=["no dropout", "dropout"])
def of_four(request: pytest.FixtureRequest, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> SimulatedTrainer:
    """A run on four processes to its end."""
    out = tmp_path_factory.mktemp("four") / "out"
    subject = simulated(demo, out, 4, 1, **FOUR, lora_dropout=request.param)
    subject.train()
    return subject


def copy_at(subject: SimulatedTrainer, step: int, folder: Path) -> Path:
    """Copy a run as it was after a step."""
    shutil.copytree(subject.config.output_dir, folder)
    for path in folder.glob("checkpoint-*"):
        if int(path.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(path)
    return folder


def assert_same_step(found: Step, wanted: Step) -> None:
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-6, atol=0)
    assert (found.gradients - wanted.gradients).norm() <= 1e-5 * wanted.gradients.norm()
    assert_same_plan(found, wanted)


def assert_same_plan(found: Step, wanted: Step) -> None:
    assert found.samples == wanted.samples and torch.equal(found.label_counts, wanted.label_counts)


def test_a_run_of_four_processes_goes_on_with_two_and_then_with_one(
    demo: Path, of_four: SimulatedTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = FOUR | {"lora_dropout": of_four.lora_config.lora_dropout}
    out = copy_at(of_four, 2, tmp_path / "out")
    with caplog.at_level(logging.INFO):
        two = simulated(demo, out, 2, 2, **settings)
    assert "goes on with 2 processes with 2 micro-batches a step; before, it had 4 processes with 1" in caplog.text
    two.train_to(4)
    assert_same_step(two.steps[0], of_four.steps[2])
    copy = copy_at(two, 4, tmp_path / "copy")
    one, not_moved = simulated(demo, out, 1, 4, **settings), simulated(demo, copy, 2, 2, **settings)
    one.train()
    not_moved.train()
    assert_same_step(one.steps[0], not_moved.steps[0])
    for found, wanted in zip(two.steps + one.steps, of_four.steps[2:], strict=True):
        assert_same_plan(found, wanted)
    assert read_run(out)["identity"]["world_size"] == 1
    assert len({tuple(step.samples) for step in of_four.steps}) == 6 and sum(map(bool, of_four.steps[0].samples)) == 4
