"""The learning rate of each step, against values worked out by hand."""

import math
from types import SimpleNamespace

import pytest

from voice_cloning.training.schedule import SCHEDULES, learning_rate, warmup_steps_of

PEAK, TOTAL, WARMUP = 3e-3, 10, 4


def rates(schedule: str) -> list[float]:
    """The rates of all steps, as shares of the peak."""
    config = SimpleNamespace(learning_rate=PEAK, lr_scheduler_type=schedule, warmup_steps=WARMUP)
    assert warmup_steps_of(config, TOTAL) == WARMUP
    return [learning_rate(config, step, WARMUP, TOTAL) / PEAK for step in range(TOTAL)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_warms_up_to_the_peak(schedule: str) -> None:
    assert rates(schedule)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_the_cosine_falls_and_the_constant_stays() -> None:
    assert rates("cosine")[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * n / 6)) for n in range(6)])
    assert rates("cosine")[9] == pytest.approx(0.0670, abs=1e-4)
    assert rates("constant")[4:] == pytest.approx([1.0] * 6)


def test_three_percent_of_the_steps_warm_up_by_default() -> None:
    config = SimpleNamespace(warmup_steps=None)
    assert [warmup_steps_of(config, total) for total in (1, 33, 34, 1000)] == [1, 1, 2, 30]
