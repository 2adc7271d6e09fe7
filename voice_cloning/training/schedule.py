"""The learning rate of each optimizer step: a pure function of the settings and the step."""

import math

from voice_cloning.training.config import DistributedTrainingConfig

DEFAULT_WARMUP_SHARE = 0.03
"""Share of all optimizer steps used for the warm-up, if ``warmup_steps`` is not given."""


def warmup_steps_of(config: DistributedTrainingConfig, total_steps: int) -> int:
    """Return the number of warm-up steps of a run."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return math.ceil(DEFAULT_WARMUP_SHARE * total_steps)


def learning_rate(config: DistributedTrainingConfig, step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of one update: a linear warm-up, then a cosine that falls to 0, or a constant.

    Args:
        config: gives the peak and the form (``learning_rate``, ``lr_scheduler_type``).
        step: number of updates before this one.
        warmup_steps: length of the warm-up (see :func:`warmup_steps_of`).
        total_steps: updates of the whole run.
    """
    peak = config.learning_rate
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if config.lr_scheduler_type == "constant":
        return peak
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * share))
