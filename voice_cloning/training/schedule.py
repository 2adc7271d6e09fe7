"""The learning rate of each optimizer step: a pure function of the settings and the step."""

import math
from collections.abc import Callable
from typing import Protocol

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
    "constant": lambda share: 1.0,
}
"""By name: the factor on the peak learning rate after the warm-up. Its argument is the share of the steps after the
warm-up that are done: 0 at the first of them, and just below 1 at the last."""
DEFAULT_WARMUP_SHARE = 0.03
"""Share of all optimizer steps used for the warm-up, if ``warmup_steps`` is not given."""


class ScheduleSettings(Protocol):
    """The flags that decide the learning rate (see ``DistributedTrainingConfig``)."""

    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: int | None


def warmup_steps_of(config: ScheduleSettings, total_steps: int) -> int:
    """Return the number of warm-up steps of a run."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return math.ceil(DEFAULT_WARMUP_SHARE * total_steps)


def learning_rate(config: ScheduleSettings, step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of one update: a linear warm-up, then one of ``SCHEDULES``.

    Args:
        config: gives the peak and the form (``learning_rate``, ``lr_scheduler_type``).
        step: number of updates before this one.
        warmup_steps: length of the warm-up (see :func:`warmup_steps_of`).
        total_steps: updates of the whole run.
    """
    peak = config.learning_rate
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * SCHEDULES[config.lr_scheduler_type](share)
