"""Test the plan of an epoch: it is a pure function of its arguments, and it takes every sample once."""

import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.slow_plan import slow_evaluation_plan, slow_plan
from voice_cloning.training import batch_planning
from voice_cloning.training.batch_planning import (
    WINDOW_SAMPLES,
    EpochPlan,
    MicroBatch,
    StepOrigin,
    StepPlan,
    TrainingPlan,
    fill_micro_batches,
    plan_epoch,
    plan_evaluation,
)
from voice_cloning.training.config import DistributedTrainingConfig

SPLITS = [(1, 1), (1, 3), (2, 1), (2, 2), (3, 1), (4, 5)]
"""(world size, accumulation) of the planned runs."""


def some_lengths(count: int = 301, longest: int = 400) -> list[int]:
    return torch.randint(20, longest, (count,), generator=torch.Generator().manual_seed(count)).tolist()


def plan(lengths: list[int], **changes: Any) -> EpochPlan:
    arguments: dict[str, Any] = {
        "max_tokens_per_batch": 1000,
        "batch_size": None,
        "world_size": 1,
        "gradient_accumulation_steps": 1,
        "seed": 3,
        "epoch": 0,
        **changes,
    }
    return plan_epoch(lengths, **arguments)


def in_order(steps: Sequence[StepPlan]) -> list[MicroBatch]:
    """Return all micro-batches in the order of steps, then accumulation, then ranks."""
    return [micro_batch for step in steps for ranks in step for micro_batch in ranks]


def samples(steps: Sequence[StepPlan]) -> list[int]:
    return [index for micro_batch in in_order(steps) for index in micro_batch]


@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.parametrize(("world", "accumulation"), SPLITS)
def test_an_epoch_takes_every_sample_once(world: int, accumulation: int, batch_size: int | None) -> None:
    lengths = some_lengths()
    settings = {"world_size": world, "gradient_accumulation_steps": accumulation, "batch_size": batch_size}
    for epoch in range(3):
        assert Counter(samples(plan(lengths, epoch=epoch, **settings))) == Counter(range(len(lengths)))


def test_an_epoch_of_several_windows_takes_every_sample_once() -> None:
    lengths = some_lengths(count=2 * WINDOW_SAMPLES + 77)
    assert sorted(samples(plan(lengths))) == list(range(len(lengths)))


def test_the_same_arguments_give_the_same_plan_after_other_random_numbers() -> None:
    lengths = some_lengths()
    first = in_order(plan(lengths, world_size=2))
    torch.rand(5)
    assert in_order(plan(lengths, world_size=2)) == first


def test_another_seed_or_epoch_gives_another_order() -> None:
    lengths = some_lengths()
    orders = [samples(plan(lengths, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_planning_does_not_change_the_global_generator() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    plan(some_lengths())
    assert torch.equal(torch.rand(3), wanted)


def test_no_micro_batch_is_over_the_budget_and_they_are_well_filled() -> None:
    lengths = some_lengths()
    positions = [sum(lengths[i] for i in micro_batch) for micro_batch in in_order(plan(lengths))]
    assert max(positions) <= 1000
    assert sum(positions) / len(positions) > 800, "sorting by length inside a window fills micro-batches"


def test_each_sample_as_long_as_the_budget_has_its_own_micro_batch() -> None:
    assert sorted(in_order(plan([1000] * 5))) == [(0,), (1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("lengths", [[10, 20, 1001, 30], [1001], [1001, 10]])
def test_a_sample_over_the_budget_is_an_error(lengths: list[int]) -> None:
    index = lengths.index(1001)
    with pytest.raises(ValueError, match=f"sample {index}: 1001 positions; max_tokens_per_batch is 1000"):
        plan(lengths)


def test_batch_size_counts_samples_and_takes_the_place_of_the_budget() -> None:
    sizes = [len(micro_batch) for micro_batch in in_order(plan([5000] * 22, batch_size=4))]
    assert sorted(sizes) == [2, 4, 4, 4, 4, 4]


def test_micro_batches_follow_the_order_given() -> None:
    assert list(fill_micro_batches([2, 0, 1, 3], [6, 5, 4, 1], 10, None)) == [(2, 0), (1, 3)]
    assert list(fill_micro_batches([2, 0, 1, 3], [6, 5, 4, 1], 10, 3)) == [(2, 0, 1), (3,)]


@pytest.mark.parametrize(("world", "accumulation"), SPLITS)
def test_every_step_gives_each_rank_the_same_number_of_micro_batches(world: int, accumulation: int) -> None:
    steps = plan(some_lengths(), world_size=world, gradient_accumulation_steps=accumulation)
    assert {len(step) for step in steps} == {accumulation}
    assert {len(ranks) for step in steps for ranks in step} == {world}


@pytest.mark.parametrize(("world", "accumulation"), SPLITS)
@pytest.mark.parametrize("count", [1, 2, 59, 60, 61])
def test_empty_micro_batches_are_only_at_the_end_of_the_last_step(world: int, accumulation: int, count: int) -> None:
    steps = plan([10] * count, world_size=world, gradient_accumulation_steps=accumulation, batch_size=1)
    filled = [bool(micro_batch) for micro_batch in in_order(steps)]
    assert filled[:count] == [True] * count and not any(filled[count:])
    assert all(micro_batch for step in list(steps)[:-1] for ranks in step for micro_batch in ranks)
    assert steps[-1][0][0], "the last step is not empty throughout"


@pytest.mark.parametrize("splits", [[(1, 2), (2, 1)], [(1, 4), (2, 2), (4, 1)], [(1, 12), (3, 4), (6, 2)]])
def test_splits_of_one_size_hold_the_same_micro_batches_in_each_step(splits: list[tuple[int, int]]) -> None:
    lengths = some_lengths()
    plans = [plan(lengths, world_size=w, gradient_accumulation_steps=a) for w, a in splits]
    per_step = [[Counter(in_order([step])) for step in steps] for steps in plans]
    assert len(per_step[0]) > 3
    assert all(other == per_step[0] for other in per_step[1:])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_takes_every_sample_once_longest_first(world: int) -> None:
    lengths = some_lengths()
    steps = plan_evaluation(lengths, max_tokens_per_batch=1000, batch_size=None, world_size=world)
    order = samples(steps)
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert {(len(step), len(step[0])) for step in steps} == {(1, world)}
    assert max(sum(lengths[i] for i in micro_batch) for micro_batch in in_order(steps)) <= 1000


def slow_fullest(run: TrainingPlan) -> MicroBatch:
    """Return the first of the fullest micro-batches, by looking at every one."""
    return max(in_order([step for _, step in run.steps_from(0)]), key=run.positions_of)


@pytest.mark.parametrize("count", [1, 301, WINDOW_SAMPLES + 500])
@pytest.mark.parametrize("settings", [{"batch_size": 3}, {}, {"max_steps": 2}, {"max_steps": 700, "batch_size": 8}])
def test_the_fullest_micro_batch_is_that_of_all_steps(count: int, settings: dict[str, Any]) -> None:
    config = DistributedTrainingConfig(data_path="d", output_dir="o", max_tokens_per_batch=1000, **settings)
    run = TrainingPlan(some_lengths(count), config, world_size=2)
    assert run.fullest_micro_batch() == slow_fullest(run)


def test_the_fullest_micro_batch_of_a_long_run_is_found_without_planning_every_epoch() -> None:
    config = DistributedTrainingConfig(data_path="d", output_dir="o", max_steps=10**9)
    assert TrainingPlan([100, 300, 200], config, world_size=1).fullest_micro_batch() == (1, 2, 0)


# -- the plan of earlier releases, at any size -------------------------------------------------------------------------


def some_settings(rng: random.Random) -> tuple[np.ndarray, dict[str, Any]]:
    """Return lengths and settings of any kind that a run can have."""
    budget = rng.choice([50, 700, 2048, 8192])
    longest = rng.choice([2, 30, budget // 3, budget])
    count = rng.choice([0, 1, 2, 47, WINDOW_SAMPLES, WINDOW_SAMPLES + 1, 3 * WINDOW_SAMPLES + 5])
    lengths = np.array([rng.randint(1, max(longest, 1)) for _ in range(count)], dtype=np.int32)
    settings = {
        "max_tokens_per_batch": budget,
        "batch_size": rng.choice([None, None, None, 1, 3, 64, 5000]),
        "world_size": rng.choice([1, 2, 3, 8, 64]),
    }
    return lengths, settings


@pytest.mark.parametrize("seed", range(80))
def test_the_plan_is_that_of_earlier_releases(seed: int) -> None:
    rng = random.Random(seed)
    lengths, settings = some_settings(rng)
    given = rng.choice([lengths, lengths.tolist(), lengths.astype(np.uint16)])
    how = {
        "gradient_accumulation_steps": rng.choice([1, 2, 7]),
        "seed": rng.randint(0, 10**6),
        "epoch": rng.randint(0, 9),
    }
    wanted = slow_plan(lengths.tolist(), **settings, **how)
    found = plan_epoch(given, **settings, **how)
    assert [tuple(step) for step in found] == wanted and len(found) == len(wanted)
    for step, by_accumulation in zip(found, wanted, strict=True):
        assert step.positions == sum(int(lengths[i]) for row in by_accumulation for indices in row for i in indices)
        rank = rng.randrange(settings["world_size"])
        assert step.of_rank(rank) == tuple(row[rank] for row in by_accumulation)
    evaluation = plan_evaluation(given, **settings)
    assert [tuple(step) for step in evaluation] == slow_evaluation_plan(lengths.tolist(), **settings)


@pytest.mark.parametrize("settings", [{"batch_size": 3}, {"max_tokens_per_batch": 1000}, {"max_steps": 1900}])
def test_a_run_takes_the_steps_of_its_epochs_from_any_step_on(settings: dict[str, Any]) -> None:
    lengths = some_lengths(WINDOW_SAMPLES + 99)
    config = DistributedTrainingConfig(
        data_path="d", output_dir="o", **{"max_tokens_per_batch": 900, "gradient_accumulation_steps": 2, **settings}
    )
    size = {"max_tokens_per_batch": config.max_tokens_per_batch, "batch_size": config.batch_size, "seed": config.seed}
    wanted = []
    for epoch in range(config.num_train_epochs if config.max_steps is None else 9):
        steps = slow_plan(lengths, **size, world_size=1, gradient_accumulation_steps=2, epoch=epoch)
        wanted += [(epoch, step) for step in steps]
    wanted = wanted[: config.max_steps]
    run = TrainingPlan(lengths, config, world_size=1)
    assert run.total_steps == len(wanted)
    first = sum(epoch == 0 for epoch, _ in wanted)
    assert run.steps_per_epoch == first and run.positions_per_step == sum(lengths) / first
    for start in (0, 1, first - 1, first, first + 1, len(wanted) - 1, len(wanted)):
        assert [(epoch, tuple(step)) for epoch, step in run.steps_from(start)] == wanted[start:]


def test_half_a_million_samples_take_two_seconds_and_50_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning and the first step, from whose plan all others follow without another plan."""
    lengths = np.random.default_rng(0).integers(60, 740, 500_000, dtype=np.int32)
    config = DistributedTrainingConfig(data_path="d", output_dir="o", num_train_epochs=1)
    planned = []
    original = batch_planning.plan_epoch
    monkeypatch.setattr(
        batch_planning, "plan_epoch", lambda *args, **kw: planned.append(kw["epoch"]) or original(*args, **kw)
    )
    tracemalloc.start()
    began = time.process_time()
    run = TrainingPlan(lengths, config, world_size=8)
    run.positions_per_step, next(run.steps_from(0)), run.fullest_micro_batch()
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2 and peak < 50e6
    assert sum(len(step.of_rank(3)) for _, step in run.steps_from(0)) == run.total_steps
    assert planned == [0]


def test_each_epoch_is_planned_once_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    original = batch_planning.plan_epoch
    monkeypatch.setattr(
        batch_planning, "plan_epoch", lambda *args, **kw: planned.append(kw["epoch"]) or original(*args, **kw)
    )
    config = DistributedTrainingConfig(data_path="d", output_dir="o", max_tokens_per_batch=1000)
    run = TrainingPlan(some_lengths(WINDOW_SAMPLES + 1), config, world_size=2)
    assert planned == [2, 1, 0], "the number of steps of an epoch follows from its plan; the first one is kept"
    assert len(list(run.steps_from(0))) == run.total_steps and run.steps_per_epoch > 0
    assert planned == [2, 1, 0, 1, 2]


# -- steps of another size from a step on ------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "count"), [*((seed, 37) for seed in range(20)), (20, 2108), (21, 2500)])
def test_a_run_whose_steps_change_size_takes_each_micro_batch_once_and_in_order(seed: int, count: int) -> None:
    rng = random.Random(seed)
    how = {"data_path": "d", "output_dir": "o", "num_train_epochs": 3, "max_tokens_per_batch": 1500, "seed": seed}
    lengths = some_lengths(count)
    wanted = [
        (number, micro_batch)
        for number in range(3)
        for micro_batch in TrainingPlan(lengths, DistributedTrainingConfig(**how), 1).epoch(number).micro_batches
    ]
    taken, step, origin, is_done = [], 0, StepOrigin(), False
    while not is_done:
        world, accumulation = rng.choice(SPLITS)
        config = DistributedTrainingConfig(**how, gradient_accumulation_steps=accumulation)
        run = TrainingPlan(lengths, config, world, origin)
        # A run that is killed before it moves on finds its place again.
        steps = list(run.steps_from(step))[: rng.randint(1, max(2, count // 40))]
        if len(steps) > 1:
            resumed = [
                (number, tuple(plan))
                for number, plan in TrainingPlan(lengths, config, world, origin).steps_from(step + 1)
            ]
            assert resumed[: len(steps) - 1] == [(number, tuple(plan)) for number, plan in steps[1:]]
        assert run.fullest_micro_batch() == max(in_order([s for _, s in run.steps_from(step)]), key=run.positions_of)
        taken += [(number, batch) for number, plan in steps for batch in in_order([plan]) if batch]
        step += len(steps)
        origin, is_done = run.origin_at(step), step == run.total_steps
    assert taken == wanted
