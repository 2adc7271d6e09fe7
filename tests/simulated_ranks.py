"""A trainer that does the work of several processes in this one, rank by rank, with their batches and seeds."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.process_group import Ranks
from tests.training_runs import flags
from voice_cloning.training.batch_planning import TrainingPlan
from voice_cloning.training.batches import BatchLoader, StepBatches
from voice_cloning.training.config import parse_arguments


class Stopped(Exception):
    """The run has reached the step at which a test leaves it."""


@dataclass(frozen=True)
class RankOfMany(Ranks):
    """One of several ranks that this process plays. Sums need no other process, because it plays them all."""

    @property
    def is_distributed(self) -> bool:
        return False


@dataclass(frozen=True)
class Step:
    """What all processes together computed in one optimizer step.

    Attributes:
        loss: the mean loss.
        gradients: the sum of all processes.
        label_counts: (1 + K,) labels of all processes.
        samples: of each micro-batch, in the order of their numbers in the step.
    """

    loss: Tensor
    gradients: Tensor
    label_counts: Tensor
    samples: tuple[tuple[int, ...], ...]


class AllBatches:
    """Loads the micro-batches of all ranks: those of rank 0, then those of rank 1, and so on."""

    def __init__(self, loaders: list[BatchLoader]) -> None:
        self._loaders = loaders

    def load_from(self, plan: TrainingPlan, start: int) -> Iterator[StepBatches]:
        for epoch, step in plan.steps_from(start):
            found = [loader.load(step, epoch) for loader in self._loaders]
            indices = tuple(indices for batches in found for indices in batches.sample_indices)
            collated = tuple(batch for batches in found for batch in batches.micro_batches)
            yield StepBatches(epoch, indices, collated, found[0].positions)


class SimulatedTrainer(ArabicVoiceCloningDistributedTrainer):
    """A trainer of ``world_size`` processes. It cannot evaluate.

    Attributes:
        steps: what was computed since the run was opened.
    """

    def __init__(self, world_size: int, *configs: Any) -> None:
        self._world_size = world_size
        self._leave_at = -1
        self.steps: list[Step] = []
        super().__init__(*configs)
        data, ranks = self.components.data, range(world_size)
        loader = AllBatches([BatchLoader(data.train_dataset, data.collator, rank) for rank in ranks])
        self.components = replace(self.components, loader=loader)

    def train_to(self, step: int) -> None:
        """Train, and leave the run after ``step`` as a killed process does. That step may have a checkpoint."""
        self._leave_at = step
        with suppress(Stopped):
            self.train()

    def _setup_distributed(self) -> Ranks:
        return RankOfMany(-1, 0, self._world_size)

    def _optimizer_step(self, batches: StepBatches, label_counts: Tensor) -> Tensor:
        optimizer, rates, sums = self.components.optimizer, [], []
        optimizer.step = lambda rate: rates.append(rate) or torch.zeros(())
        each = len(batches.micro_batches) // self._world_size
        for rank in range(self._world_size):
            own = slice(rank * each, (rank + 1) * each)
            indices, collated = batches.sample_indices[own], batches.micro_batches[own]
            self.ranks = RankOfMany(-1, rank, self._world_size)
            mine = replace(batches, sample_indices=indices, micro_batches=collated)
            sums.append(super()._optimizer_step(mine, label_counts)[:, :-1])
        self.ranks = self._setup_distributed()
        del optimizer.step
        means = torch.cat(sums).sum(dim=0) / label_counts
        by_number = [
            number % self._world_size * each + number // self._world_size for number in range(each * self._world_size)
        ]
        in_order = tuple(batches.sample_indices[place] for place in by_number)
        loss = means[0] + means[1:].mean()
        self.steps.append(Step(loss, optimizer.gradients.clone(), label_counts.clone(), in_order))
        norm = optimizer.step(rates[-1])
        return torch.cat([torch.cat(sums), norm.expand(len(batches.micro_batches), 1)], dim=1)

    def _after_step(self, *args: Any) -> None:
        super()._after_step(*args)
        if self.components.state.step == self._leave_at:
            raise Stopped


def simulated(demo: Path, output_dir: Path, world_size: int, accumulation: int, **overrides: Any) -> SimulatedTrainer:
    """Return a trainer of several processes with the flags of ``tests.training_runs.flags``."""
    settings = {"eval_data_path": None, "gradient_accumulation_steps": accumulation, **overrides}
    return SimulatedTrainer(world_size, *parse_arguments(flags(demo, output_dir, **settings), ""))
