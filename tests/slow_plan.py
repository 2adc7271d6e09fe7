"""The batch plan as it was first written, one sample at a time: runs of all releases have this plan."""

from collections.abc import Sequence

import torch

WINDOW_SAMPLES = 2048
MicroBatch = tuple[int, ...]


def slow_plan(
    lengths: Sequence[int],
    *,
    max_tokens_per_batch: int,
    batch_size: int | None,
    world_size: int,
    gradient_accumulation_steps: int,
    seed: int,
    epoch: int,
) -> list[tuple[tuple[MicroBatch, ...], ...]]:
    """Return the steps of an epoch, each as ``step[accumulation_index][rank]``."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    micro_batches: list[MicroBatch] = []
    for start in range(0, len(order), WINDOW_SAMPLES):
        window = sorted(order[start : start + WINDOW_SAMPLES], key=lambda i: -lengths[i])
        micro_batches += slow_filling(window, lengths, max_tokens_per_batch, batch_size)
    shuffled = [micro_batches[i] for i in torch.randperm(len(micro_batches), generator=generator).tolist()]
    return _deal(shuffled, world_size, gradient_accumulation_steps)


def slow_evaluation_plan(
    lengths: Sequence[int], *, max_tokens_per_batch: int, batch_size: int | None, world_size: int
) -> list[tuple[tuple[MicroBatch, ...], ...]]:
    """Return the rounds of an evaluation, each as one micro-batch per rank."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return _deal(slow_filling(order, lengths, max_tokens_per_batch, batch_size), world_size, 1)


def slow_filling(
    order: Sequence[int], lengths: Sequence[int], max_tokens_per_batch: int, batch_size: int | None
) -> list[MicroBatch]:
    """Cut ``order`` into micro-batches."""
    if batch_size is not None:
        return [tuple(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    micro_batches: list[MicroBatch] = []
    current: list[int] = []
    room = max_tokens_per_batch
    for index in order:
        if lengths[index] > max_tokens_per_batch:
            raise ValueError(f"sample {index}: {lengths[index]} positions")
        if lengths[index] > room:
            micro_batches.append(tuple(current))
            current, room = [], max_tokens_per_batch
        current.append(index)
        room -= lengths[index]
    if current:
        micro_batches.append(tuple(current))
    return micro_batches


def _deal(
    micro_batches: Sequence[MicroBatch], world_size: int, gradient_accumulation_steps: int
) -> list[tuple[tuple[MicroBatch, ...], ...]]:
    per_step = world_size * gradient_accumulation_steps
    steps = []
    for start in range(0, len(micro_batches), per_step):
        chunk = list(micro_batches[start : start + per_step])
        chunk += [()] * (per_step - len(chunk))
        steps.append(tuple(tuple(chunk[a : a + world_size]) for a in range(0, per_step, world_size)))
    return steps
