"""Plan which samples each rank trains on in each optimizer step.

A plan is a pure function of its arguments, so all ranks and resumed runs have the same plan.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from voice_cloning.training.config import DistributedTrainingConfig

WINDOW_SAMPLES = 2048
"""Number of samples that are sorted by length together.

It is large enough to fill micro-batches evenly, and small enough to keep the order random.
"""

MicroBatch = tuple[int, ...]
"""Sample indices; may be empty in the last step of an epoch."""

StepPlan = tuple[tuple[MicroBatch, ...], ...]
"""``plan[accumulation_index][rank]``: the micro-batches of one optimizer step."""


class TrainingPlan:
    """The samples of each optimizer step of a run.

    Args:
        lengths: positions of each sample.
        config: gives the size of micro-batches, the accumulation, the seed and the length of the run.
        world_size: number of processes.

    Attributes:
        total_steps: optimizer steps of the whole run.
    """

    def __init__(self, lengths: Sequence[int], config: DistributedTrainingConfig, world_size: int) -> None:
        self._lengths = lengths
        self._config = config
        self._world_size = world_size
        if config.max_steps is not None:
            self.total_steps: int = config.max_steps
        else:
            self.total_steps = sum(len(self.epoch(number)) for number in range(config.num_train_epochs))

    def epoch(self, number: int) -> list[StepPlan]:
        """Return the steps of one epoch, counted from 0 (see :func:`plan_epoch`)."""
        config = self._config
        return plan_epoch(
            self._lengths,
            max_tokens_per_batch=config.max_tokens_per_batch,
            batch_size=config.batch_size,
            world_size=self._world_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            seed=config.seed,
            epoch=number,
        )

    def steps_from(self, start: int) -> Iterator[tuple[int, StepPlan]]:
        """Yield each step with the number of its epoch, from step ``start`` (counted from 0) to the last of the run."""
        position, number = 0, 0
        while position < self.total_steps:
            epoch = self.epoch(number)
            wanted = range(max(0, start - position), min(len(epoch), self.total_steps - position))
            for index in wanted:
                yield number, epoch[index]
            position += len(epoch)
            number += 1

    @property
    def positions_per_step(self) -> float:
        """Positions of an optimizer step on average, over all ranks."""
        return sum(self._lengths) / len(self.epoch(0))

    def positions_of(self, micro_batch: MicroBatch) -> int:
        """Return the number of positions of a micro-batch; 0 for an empty one."""
        return sum(self._lengths[index] for index in micro_batch)

    def fullest_micro_batch(self) -> MicroBatch:
        """Return the micro-batch with the most positions among all steps and ranks of the run: the first of these."""
        steps = (step for _, step in self.steps_from(0))
        if len(self._lengths) <= WINDOW_SAMPLES:
            # One window is sorted by length whatever the order was, so all epochs have micro-batches of equal lengths.
            steps = islice(steps, len(self.epoch(0)))
        return max((batch for step in steps for row in step for batch in row), key=self.positions_of, default=())


def plan_epoch(
    lengths: Sequence[int],
    *,
    max_tokens_per_batch: int,
    batch_size: int | None,
    world_size: int,
    gradient_accumulation_steps: int,
    seed: int,
    epoch: int,
) -> list[StepPlan]:
    """Return the optimizer steps of one epoch. They take every sample once.

    The samples are shuffled, sorted by length inside windows, and cut into micro-batches. Then the micro-batches are
    shuffled.

    Args:
        lengths: positions of each sample.
        max_tokens_per_batch: maximum number of positions of a micro-batch, if ``batch_size`` is None.
        batch_size: samples of a micro-batch.

    Returns:
        The steps of the epoch. All ranks have the same number of micro-batches; the last ones may be empty.

    Raises:
        ValueError: if a sample is longer than ``max_tokens_per_batch``.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    micro_batches: list[MicroBatch] = []
    for start in range(0, len(order), WINDOW_SAMPLES):
        window = sorted(order[start : start + WINDOW_SAMPLES], key=lambda i: -lengths[i])
        micro_batches += fill_micro_batches(window, lengths, max_tokens_per_batch, batch_size)
    shuffled = [micro_batches[i] for i in torch.randperm(len(micro_batches), generator=generator).tolist()]
    return _deal(shuffled, world_size, gradient_accumulation_steps)


def plan_evaluation(
    lengths: Sequence[int], *, max_tokens_per_batch: int, batch_size: int | None, world_size: int
) -> list[StepPlan]:
    """Return steps of one micro-batch per rank. They take every sample once, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return _deal(fill_micro_batches(order, lengths, max_tokens_per_batch, batch_size), world_size, 1)


def fullest_evaluation_batch(lengths: Sequence[int], config: DistributedTrainingConfig) -> MicroBatch:
    """Return the micro-batch with the most positions of an evaluation, on any number of processes."""
    steps = plan_evaluation(
        lengths, max_tokens_per_batch=config.max_tokens_per_batch, batch_size=config.batch_size, world_size=1
    )
    return max((step[0][0] for step in steps), key=lambda indices: sum(lengths[i] for i in indices))


def fill_micro_batches(
    order: Sequence[int], lengths: Sequence[int], max_tokens_per_batch: int, batch_size: int | None
) -> list[MicroBatch]:
    """Cut ``order`` into micro-batches of ``batch_size`` samples or of at most ``max_tokens_per_batch`` positions.

    Raises:
        ValueError: if a sample is longer than ``max_tokens_per_batch``.
    """
    if batch_size is not None:
        return [tuple(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    micro_batches: list[MicroBatch] = []
    current: list[int] = []
    room = max_tokens_per_batch
    for index in order:
        if lengths[index] > max_tokens_per_batch:
            raise ValueError(
                f"sample {index}: {lengths[index]} positions; max_tokens_per_batch is {max_tokens_per_batch}"
            )
        if lengths[index] > room:
            micro_batches.append(tuple(current))
            current, room = [], max_tokens_per_batch
        current.append(index)
        room -= lengths[index]
    if current:
        micro_batches.append(tuple(current))
    return micro_batches


def _deal(micro_batches: Sequence[MicroBatch], world_size: int, gradient_accumulation_steps: int) -> list[StepPlan]:
    """Give micro-batch n of a step to rank n % world_size. Fill up the last step with empty micro-batches."""
    per_step = world_size * gradient_accumulation_steps
    steps = []
    for start in range(0, len(micro_batches), per_step):
        chunk = list(micro_batches[start : start + per_step])
        chunk += [()] * (per_step - len(chunk))
        steps.append(tuple(tuple(chunk[a : a + world_size]) for a in range(0, per_step, world_size)))
    return steps
