"""The waits that the scaling benchmark computes, and the calls that it counts."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import distributed as dist

from benchmarks.scaling import (
    Call,
    count_collectives,
    gradient_seconds,
    made_lengths,
    plan_cost,
    ring_seconds,
)


def test_a_ring_sends_each_byte_almost_twice_and_waits_for_each_hop() -> None:
    assert ring_seconds(1000, 2, 100.0, 0.0) == pytest.approx(10.0)
    assert ring_seconds(1000, 4, 100.0, 0.5) == pytest.approx(2 * 3 / 4 * 10 + 2 * 3 * 0.5)
    assert ring_seconds(1000, 1, 100.0, 0.5) == 0


def test_the_link_between_machines_decides_as_soon_as_there_are_two() -> None:
    assert gradient_seconds(158_000_000, 8) < gradient_seconds(158_000_000, 16) / 10


def test_the_plan_of_equal_samples_is_even_but_for_its_last_step() -> None:
    found = plan_cost(np.full(100, 100, np.int32), world_size=4, positions=500, accumulation=1)
    assert found.steps == 5 and found.evenness == pytest.approx(1.0)
    found = plan_cost(np.full(110, 100, np.int32), world_size=4, positions=500, accumulation=1)
    assert found.steps == 6 and found.evenness == pytest.approx((5 + 0.5) / 6)
    assert 0.5 < plan_cost(made_lengths(500), world_size=8, positions=4096, accumulation=2).evenness < 1


def test_calls_are_counted_with_the_bytes_that_a_process_puts_in(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    for name in ("all_reduce", "broadcast", "broadcast_object_list", "all_gather_object", "barrier"):

        def call(*args: object, _name: str = name) -> None:
            sent.append(_name)

        call.__name__ = name
        monkeypatch.setattr(dist, name, call)
    calls = count_collectives()
    dist.all_reduce(torch.zeros(5))
    dist.all_reduce(torch.zeros(5))
    dist.broadcast(torch.zeros(3, dtype=torch.float64))
    dist.barrier()
    dist.all_gather_object([None, None], "word")
    assert sent == ["all_reduce", "all_reduce", "broadcast", "barrier", "all_gather_object"]
    assert calls - Counter({Call("all_reduce", 20): 2, Call("broadcast", 24): 1, Call("barrier", 0): 1}) == Counter(
        {call: 1 for call in calls if call.function == "all_gather_object" and call.bytes > len("word")}
    )
