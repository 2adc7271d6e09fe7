"""Runs of the program on the fused layers: levels of recompute, resume, and steps of the demo repeated fused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from tests.fused_models import error
from tests.training_runs import EVERY_GROUP, assert_same_adapter, metrics, trainer
from voice_cloning.run import components
from voice_cloning.training.batches import StepBatches
from voice_cloning.training.config import RECOMPUTE_LEVELS
from voice_cloning.training.fused_layers import FusedLayers, install_fused_layers

DEMO = {
    "warmup_steps": 10,
    "learning_rate": 5e-3,
    "lora_rank": 64,
    "lora_alpha": 128,
    "lora_dropout": 0.0,
    "lora_targets": EVERY_GROUP,
    "eval_data_path": None,
    "logging_steps": 1,
    "save_steps": 1000,
    "max_steps": 200,
    "max_tokens_per_batch": None,
}
"""``DEMO_SETTINGS`` of the Makefile, without evaluation."""


@contextmanager
def plain_layers() -> Iterator[None]:
    """Runs that begin inside keep their plain layers."""
    with patch.object(components, "install_fused_layers", lambda *_: "a test wants them"):
        yield


def label_layers(subject: ArabicVoiceCloningDistributedTrainer) -> object:
    return subject.components.model.get_base_model().label_layers


# -- levels of recompute ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("levels") / "none"
    subject = trainer(demo, folder, lora_dropout=0.0, recompute="none")
    assert isinstance(label_layers(subject), FusedLayers)
    subject.train()
    return folder


@pytest.mark.parametrize("recompute", ["ffn", "layer"])
def test_every_level_of_recompute_trains_the_same_bits(
    demo: Path, tmp_path: Path, uninterrupted: Path, recompute: str
) -> None:
    """On a CPU, what is computed again has the same bits, and so has the whole run."""
    summary = trainer(demo, tmp_path / "out", lora_dropout=0.0, recompute=recompute).train()
    assert_same_adapter(summary.checkpoint, uninterrupted / summary.checkpoint.name)
    assert metrics(tmp_path / "out") == metrics(uninterrupted)


def test_a_run_may_change_its_level_of_recompute_on_resume(demo: Path, tmp_path: Path, uninterrupted: Path) -> None:
    """The level is no part of a run's identity. The steps are 2, 1 and 3, each on a level of its own."""
    for recompute, last in zip(RECOMPUTE_LEVELS, (2, 3, 6), strict=True):
        subject = trainer(demo, tmp_path / "out", lora_dropout=0.0, recompute=recompute)
        assert label_layers(subject)._recompute == recompute
        after_step = subject._after_step

        def stopping(log: object, stop: object, after_step=after_step, subject=subject, last=last) -> None:
            after_step(log, stop)
            if subject.components.state.step == last < 6:
                stop.received = 15

        subject._after_step = stopping
        summary = subject.train()
        assert (summary.step, summary.finished) == (last, last == 6)
    assert_same_adapter(summary.checkpoint, uninterrupted / summary.checkpoint.name)
    assert metrics(tmp_path / "out") == metrics(uninterrupted)


# -- steps of the plain demo run, repeated fused -----------------------------------------------------------------------


class Step:
    """What one optimizer step has left: its loss, its gradients as AdamW got them, and its update of the weights."""

    def __init__(self, subject: ArabicVoiceCloningDistributedTrainer, *step: object) -> None:
        optimizer, gradients = subject.components.optimizer, []
        before = optimizer.values.double()
        adamw_step = optimizer._adamw.step

        def recorded() -> None:
            gradients.append(optimizer.gradients.double())
            adamw_step()

        with patch.object(optimizer._adamw, "step", recorded):
            self.sums: Tensor = ArabicVoiceCloningDistributedTrainer._optimizer_step(subject, *step)
        (self.gradients,) = gradients
        self.update = optimizer.values.double() - before
        means = self.sums[:, :-1].sum(dim=0).double() / step[1]
        self.loss = means[0] + means[1:].mean()


class RepeatedSteps:
    """Trains on the plain layers, and makes some steps first on the fused ones, from the same state.

    Attributes:
        pairs: (fused, plain) of each of these steps.
    """

    def __init__(self, subject: ArabicVoiceCloningDistributedTrainer, wanted: tuple[int, ...]) -> None:
        self.pairs: dict[int, tuple[Step, Step]] = {}
        self._subject, self._wanted = subject, wanted
        subject._optimizer_step = self._step

    def _step(self, batches: StepBatches, label_counts: Tensor) -> Tensor:
        number = self._subject.components.state.step + 1
        if number not in self._wanted:
            return ArabicVoiceCloningDistributedTrainer._optimizer_step(self._subject, batches, label_counts)
        optimizer, model = self._subject.components.optimizer, self._subject.components.model
        state = [optimizer.values, *optimizer._state.values()]
        saved = [tensor.clone() for tensor in state]
        assert install_fused_layers(model, "none") is None
        fused = Step(self._subject, batches, label_counts)
        model.get_base_model().label_layers = None
        for tensor, value in zip(state, saved, strict=True):
            tensor.copy_(value)
        self.pairs[number] = fused, Step(self._subject, batches, label_counts)
        return self.pairs[number][1].sums


@pytest.mark.parametrize("wanted", [(1, 20), pytest.param((1, 20, 80, 140), marks=pytest.mark.slow)], ids=str)
def test_steps_of_the_plain_demo_run_repeated_fused(demo: Path, tmp_path: Path, wanted: tuple[int, ...]) -> None:
    with plain_layers():
        subject = trainer(demo, tmp_path / "out", **DEMO)
    repeated = RepeatedSteps(subject, wanted)
    end_after(subject, wanted[-1])
    assert tuple(repeated.pairs) == wanted
    for number, (fused, plain) in repeated.pairs.items():
        assert not torch.equal(fused.gradients, plain.gradients), "other products have other last bits"
        found = abs(fused.loss - plain.loss) / plain.loss, error(fused.gradients, plain.gradients)
        assert found[0] <= 1e-6, number
        assert found[1] <= 1e-5, number
        assert error(fused.update, plain.update) <= 1e-4, number


def end_after(subject: ArabicVoiceCloningDistributedTrainer, last: int) -> None:
    """Train as far as a step."""
    after_step = subject._after_step

    def stopping(log: object, stop: object) -> None:
        after_step(log, stop)
        if subject.components.state.step == last:
            stop.received = 15

    subject._after_step = stopping
    subject.train()


# -- curves ------------------------------------------------------------------------------------------------------------

CURVE_STEPS, PAIRS = 140, 5
HAIR = 1e-5


def curve(demo: Path, folder: Path, **settings: object) -> Tensor:
    """The loss of each step."""
    subject = trainer(demo, folder, **{**DEMO, **settings})
    end_after(subject, CURVE_STEPS)
    return torch.tensor([line["loss"] for line in metrics(folder) if "loss" in line], dtype=torch.float64)


@pytest.mark.slow
def test_curves_differ_no_more_than_by_a_hair_of_adam_epsilon(demo: Path, tmp_path: Path) -> None:
    """Training is chaotic: after some tens of steps, pairs of both kinds differ by chance. So the median is compared.

    Each plain run has an epsilon that is a hair larger than that of the run before it. The difference of a pair is the
    mean over the steps of the difference of the losses.
    """
    epsilons = [1e-8 * (1 + HAIR * number) for number in range(PAIRS + 1)]
    with plain_layers():
        plain = [curve(demo, tmp_path / f"plain {e}", adam_epsilon=e) for e in epsilons]
    fused = [curve(demo, tmp_path / f"fused {e}", adam_epsilon=e) for e in epsilons[:PAIRS]]
    assert {len(losses) for losses in (*plain, *fused)} == {CURVE_STEPS}
    by_layers, by_epsilon = (
        [(one - other).abs().mean().item() for one, other in zip(first, second, strict=False)]
        for first, second in ((fused, plain), (plain, plain[1:]))
    )
    assert min(*by_layers, *by_epsilon) > 0
    assert median(by_layers) <= max(by_epsilon), (by_layers, by_epsilon)
