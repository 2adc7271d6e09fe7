"""Plan which samples each rank trains on in each optimizer step.

A plan is a pure function of its arguments, so all ranks and resumed runs have the same plan. It holds arrays, because
an epoch may have a million samples. Tuples are made only of the few micro-batches that a process takes next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch

from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.epoch_samples import EpochSamples

WINDOW_SAMPLES = 2048
"""Number of samples that are sorted by length together.

It is large enough to fill micro-batches evenly, and small enough to keep the order random.
"""

MicroBatch = tuple[int, ...]
"""Sample indices; may be empty in the last step of an epoch."""

Lengths = Sequence[int] | np.ndarray
"""Positions of each sample."""


class MicroBatches(Sequence[MicroBatch]):
    """Micro-batches in an order, as arrays.

    Args:
        samples: (N,) sample indices, with those of a micro-batch side by side.
        starts: (M,) where each micro-batch begins in ``samples``, ascending from 0.
        lengths: positions of each sample.

    Attributes:
        positions: (M,) positions of each micro-batch.
    """

    def __init__(self, samples: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        self._samples = samples
        self._starts = starts.astype(np.int32)
        self._ends = np.append(self._starts[1:], np.int32(len(samples)))[: len(starts)]
        ends = np.cumsum(lengths[samples], dtype=np.int64) if len(samples) else np.zeros(0, np.int64)
        self.positions = np.diff(ends[self._ends - 1], prepend=0)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> MicroBatch:
        return tuple(self._samples[self._starts[index] : self._ends[index]].tolist())

    def shuffle(self, order: np.ndarray) -> None:
        """Put the micro-batches into another order, given as (M,) of their numbers."""
        self._starts, self._ends, self.positions = self._starts[order], self._ends[order], self.positions[order]

    @property
    def fullest(self) -> MicroBatch:
        """The first of the micro-batches with the most positions; empty if there is none."""
        return self.fullest_of(range(len(self)))

    def fullest_of(self, numbers: range) -> MicroBatch:
        """Return the first of those with the most positions among some that follow each other; empty if none does."""
        if not numbers:
            return ()
        return self[numbers.start + int(self.positions[numbers.start : numbers.stop].argmax())]


@dataclass(frozen=True, eq=False)
class StepPlan(Sequence[tuple[MicroBatch, ...]]):
    """The micro-batches of one optimizer step: ``step[accumulation_index][rank]``.

    Micro-batch n of a step belongs to rank n % world size. Those that are missing at the end of an epoch are empty.

    Attributes:
        micro_batches: those of the epoch.
        numbers: which of them are those of the step.
        world_size: number of processes.
        gradient_accumulation_steps: micro-batches of each process.
    """

    micro_batches: MicroBatches
    numbers: range
    world_size: int
    gradient_accumulation_steps: int

    def __len__(self) -> int:
        return self.gradient_accumulation_steps

    def __getitem__(self, index: int) -> tuple[MicroBatch, ...]:
        first = range(len(self))[index] * self.world_size
        return tuple(self._micro_batch(first + rank) for rank in range(self.world_size))

    def of_rank(self, rank: int) -> tuple[MicroBatch, ...]:
        """Return the micro-batches of one process, in their order."""
        per_step = self.world_size * self.gradient_accumulation_steps
        return tuple(self._micro_batch(number) for number in range(rank, per_step, self.world_size))

    @property
    def positions(self) -> int:
        """Positions of the step over all processes."""
        return int(self.micro_batches.positions[self.numbers.start : self.numbers.stop].sum())

    def _micro_batch(self, number: int) -> MicroBatch:
        return self.micro_batches[self.numbers[number]] if number < len(self.numbers) else ()


@dataclass(frozen=True, eq=False)
class EpochPlan(Sequence[StepPlan]):
    """The steps of one epoch, or of one evaluation.

    Attributes:
        micro_batches: those of the epoch, in the order of training.
        world_size: number of processes.
        gradient_accumulation_steps: micro-batches of each process in a step.
        first: the micro-batch with which the first step begins.
    """

    micro_batches: MicroBatches
    world_size: int
    gradient_accumulation_steps: int
    first: int = 0

    def __len__(self) -> int:
        return -(-(len(self.micro_batches) - self.first) // self._per_step)

    def __getitem__(self, index: int) -> StepPlan:
        start = self.first + range(len(self))[index] * self._per_step
        numbers = range(start, min(start + self._per_step, len(self.micro_batches)))
        return StepPlan(self.micro_batches, numbers, self.world_size, self.gradient_accumulation_steps)

    @property
    def _per_step(self) -> int:
        return self.world_size * self.gradient_accumulation_steps


@dataclass(frozen=True)
class StepOrigin:
    """Where the steps of a plan begin. It is the start of the run unless the number of micro-batches of a step changed.

    Attributes:
        step: optimizer steps before it, of whatever size.
        epoch, micro_batch: the first micro-batch that these steps left, in the order of its epoch.
    """

    step: int = 0
    epoch: int = 0
    micro_batch: int = 0


class TrainingPlan:
    """The samples of each optimizer step of a run. The plan of one epoch at a time is kept.

    Args:
        samples: what each epoch takes; or the positions of each sample, if every epoch takes all of them.
        config: gives the size of micro-batches, the accumulation, the seed and the length of the run.
        world_size: number of processes.
        origin: where the steps begin.

    Attributes:
        total_steps: optimizer steps of the whole run.
    """

    def __init__(
        self,
        samples: EpochSamples | Lengths,
        config: DistributedTrainingConfig,
        world_size: int,
        origin: StepOrigin = StepOrigin(),
    ) -> None:
        self._samples = samples if isinstance(samples, EpochSamples) else EpochSamples(np.asarray(samples))
        self._config = config
        self._world_size = world_size
        self._per_step = world_size * config.gradient_accumulation_steps
        self._origin = origin
        self._kept: tuple[int, EpochPlan] | None = None
        self._counts: dict[int, int] = {}
        if config.max_steps is not None:
            self.total_steps: int = config.max_steps
        else:
            # Backwards, so that the plan that is kept is the one that is needed first.
            left = reversed(range(origin.epoch, config.num_train_epochs))
            self.total_steps = origin.step + sum(map(self._steps_in, left))

    def epoch(self, number: int) -> EpochPlan:
        """Return the steps of one epoch, counted from 0 (see :func:`plan_epoch`), from the origin on."""
        if self._kept is None or self._kept[0] != number:
            self._kept = None  # before the next one is made, so that there are never two
            config = self._config
            plan = plan_epoch(
                self._samples.lengths(number),
                self._samples.taken(number),
                max_tokens_per_batch=config.max_tokens_per_batch,
                batch_size=config.batch_size,
                world_size=self._world_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                seed=config.seed,
                epoch=number,
            )
            self._kept = number, replace(plan, first=self._first_in(number))
        return self._kept[1]

    def steps_from(self, start: int) -> Iterator[tuple[int, StepPlan]]:
        """Yield each step with the number of its epoch, from step ``start`` (counted from 0) to the last of the run."""
        for number, position in self._epochs():
            wanted = range(max(0, start - position), min(self._steps_in(number), self.total_steps - position))
            for index in wanted:
                yield number, self.epoch(number)[index]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch: the first one."""
        return -(-self._count(0) // self._per_step)

    @property
    def positions_per_step(self) -> float:
        """Positions of an optimizer step on average, over all ranks."""
        taken = self._samples.lengths(0)[self._samples.taken(0)]
        return int(taken.sum(dtype=np.int64)) / self.steps_per_epoch

    def positions_of(self, micro_batch: MicroBatch, epoch: int = 0) -> int:
        """Return the number of positions of a micro-batch in an epoch; 0 for an empty one."""
        lengths = self._samples.lengths(epoch)
        return sum(int(lengths[index]) for index in micro_batch)

    def fullest_micro_batch(self) -> MicroBatch:
        """Return the micro-batch with the most positions among all steps and ranks of the run: the first of these."""
        return self.fullest()[1]

    def fullest(self) -> tuple[int, MicroBatch]:
        """Return the epoch and the samples of :meth:`fullest_micro_batch`."""
        found: list[tuple[int, MicroBatch]] = []
        for number, position in self._epochs():
            plan = self.epoch(number)
            end = plan.first + min(len(plan), self.total_steps - position) * self._per_step
            numbers = range(plan.first, min(end, len(plan.micro_batches)))
            found.append((number, plan.micro_batches.fullest_of(numbers)))
            if self._is_one_window and plan.first == 0:  # whole epochs differ in the order of micro-batches alone
                break
        return max(found, key=lambda one: self.positions_of(one[1], one[0]), default=(0, ()))

    def origin_at(self, step: int) -> StepOrigin:
        """Return where the steps of a plan with another number of micro-batches begin if ``step`` steps are done."""
        following = self._origin.epoch
        for number, position in self._epochs():
            if step < position + self._steps_in(number):
                return StepOrigin(step, number, self._first_in(number) + (step - position) * self._per_step)
            following = number + 1
        return StepOrigin(step, following)

    def _epochs(self) -> Iterator[tuple[int, int]]:
        """Yield the number of each epoch from the origin on, and the number of steps before it."""
        position = self._origin.step
        for number in count(self._origin.epoch):
            if position >= self.total_steps:
                return
            yield number, position
            position += self._steps_in(number)

    def _steps_in(self, number: int) -> int:
        """Return the steps of an epoch from the origin on."""
        return -(-(self._count(number) - self._first_in(number)) // self._per_step)

    def _first_in(self, number: int) -> int:
        """Return the first micro-batch of an epoch from the origin on."""
        return self._origin.micro_batch if number == self._origin.epoch else 0

    def _count(self, number: int) -> int:
        """Return the micro-batches of an epoch. It is planned unless they are known."""
        alike = self._is_one_window or self._config.batch_size is not None
        key = self._origin.epoch if alike else number
        if key not in self._counts:
            self._counts[key] = len(self.epoch(key).micro_batches)
        return self._counts[key]

    @property
    def _is_one_window(self) -> bool:
        """Whether epochs differ in the order of their micro-batches alone, because all samples are sorted together."""
        return self._samples.are_alike and len(self._samples.taken(0)) <= WINDOW_SAMPLES


def plan_epoch(
    lengths: Lengths,
    taken: np.ndarray | None = None,
    *,
    max_tokens_per_batch: int,
    batch_size: int | None,
    world_size: int,
    gradient_accumulation_steps: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Return the optimizer steps of one epoch.

    The samples are shuffled, sorted by length inside windows, and cut into micro-batches. Then the micro-batches are
    shuffled.

    Args:
        lengths: positions of each sample.
        taken: indices of the samples that the epoch takes; every sample once if it is None.
        max_tokens_per_batch: maximum number of positions of a micro-batch, if ``batch_size`` is None.
        batch_size: samples of a micro-batch.

    Returns:
        The steps of the epoch. All ranks have the same number of micro-batches; the last ones may be empty.

    Raises:
        ValueError: if a sample is longer than ``max_tokens_per_batch``.
    """
    lengths = np.asarray(lengths)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    taken = np.arange(len(lengths), dtype=np.int32) if taken is None else taken
    order = taken[torch.randperm(len(taken), generator=generator).numpy()]
    starts = [np.zeros(0, np.int64)]
    for start in range(0, len(order), WINDOW_SAMPLES):
        window = order[start : start + WINDOW_SAMPLES]
        window[:] = _longest_first(window, lengths)
        starts.append(start + _starts(window, lengths, max_tokens_per_batch, batch_size))
    micro_batches = MicroBatches(order, np.concatenate(starts), lengths)
    micro_batches.shuffle(torch.randperm(len(micro_batches), generator=generator).numpy())
    return EpochPlan(micro_batches, world_size, gradient_accumulation_steps)


def plan_evaluation(
    lengths: Lengths, *, max_tokens_per_batch: int, batch_size: int | None, world_size: int
) -> EpochPlan:
    """Return steps of one micro-batch per rank. They take every sample once, longest first."""
    lengths = np.asarray(lengths)
    order = _longest_first(np.arange(len(lengths), dtype=np.int32), lengths)
    return EpochPlan(fill_micro_batches(order, lengths, max_tokens_per_batch, batch_size), world_size, 1)


def fullest_evaluation_batch(lengths: Lengths, config: DistributedTrainingConfig) -> MicroBatch:
    """Return the micro-batch with the most positions of an evaluation, on any number of processes."""
    plan = plan_evaluation(
        lengths, max_tokens_per_batch=config.max_tokens_per_batch, batch_size=config.batch_size, world_size=1
    )
    return plan.micro_batches.fullest


def fill_micro_batches(
    order: Sequence[int] | np.ndarray, lengths: Lengths, max_tokens_per_batch: int, batch_size: int | None
) -> MicroBatches:
    """Cut ``order`` into micro-batches of ``batch_size`` samples or of at most ``max_tokens_per_batch`` positions.

    Raises:
        ValueError: if a sample is longer than ``max_tokens_per_batch``.
    """
    order, lengths = np.asarray(order, dtype=np.int32), np.asarray(lengths)
    return MicroBatches(order, _starts(order, lengths, max_tokens_per_batch, batch_size), lengths)


def _longest_first(order: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return sample indices sorted by length. Samples of one length keep their order."""
    return order[np.argsort(-lengths[order].astype(np.int64), kind="stable")]


def _starts(order: np.ndarray, lengths: np.ndarray, max_tokens_per_batch: int, batch_size: int | None) -> np.ndarray:
    """Return (M,) where each micro-batch begins in ``order``. A micro-batch takes as many samples as it can hold."""
    if batch_size is not None:
        return np.arange(0, len(order), batch_size)
    own = lengths[order].astype(np.int64)
    over = np.flatnonzero(own > max_tokens_per_batch)
    if len(over):
        index = order[over[0]]
        raise ValueError(f"sample {index}: {lengths[index]} positions; max_tokens_per_batch is {max_tokens_per_batch}")
    ends = np.cumsum(own)
    following = np.searchsorted(ends, ends - own + max_tokens_per_batch, side="right")  # where the next one would begin
    starts, start = [], 0
    while start < len(order):
        starts.append(start)
        start = int(following[start])
    return np.array(starts, dtype=np.int64)
