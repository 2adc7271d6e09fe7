"""Test the plan of an epoch: it is a pure function of its arguments, and it takes every sample once."""

from collections import Counter
from typing import Any

import pytest
import torch

from voice_cloning.training.batch_planning import (
    WINDOW_SAMPLES,
    MicroBatch,
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


def plan(lengths: list[int], **changes: Any) -> list[StepPlan]:
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


def in_order(steps: list[StepPlan]) -> list[MicroBatch]:
    """Return all micro-batches in the order of steps, then accumulation, then ranks."""
    return [micro_batch for step in steps for ranks in step for micro_batch in ranks]


def samples(steps: list[StepPlan]) -> list[int]:
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
    first = plan(lengths, world_size=2)
    torch.rand(5)
    assert plan(lengths, world_size=2) == first


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
    assert fill_micro_batches([2, 0, 1, 3], [6, 5, 4, 1], 10, None) == [(2, 0), (1, 3)]
    assert fill_micro_batches([2, 0, 1, 3], [6, 5, 4, 1], 10, 3) == [(2, 0, 1), (3,)]


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
    assert all(micro_batch for step in steps[:-1] for ranks in step for micro_batch in ranks)
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


def slow_fullest(run: TrainingPlan) -> int:
    """Return the positions of the fullest micro-batch, by looking at every one."""
    steps = [step for _, step in run.steps_from(0)]
    return max(run.positions_of(micro_batch) for micro_batch in in_order(steps))


@pytest.mark.parametrize("count", [1, 301, WINDOW_SAMPLES + 500])
@pytest.mark.parametrize("settings", [{"batch_size": 3}, {}, {"max_steps": 2}, {"max_steps": 700, "batch_size": 8}])
def test_the_fullest_micro_batch_is_that_of_all_steps(count: int, settings: dict[str, Any]) -> None:
    config = DistributedTrainingConfig(data_path="d", output_dir="o", max_tokens_per_batch=1000, **settings)
    run = TrainingPlan(some_lengths(count), config, world_size=2)
    fullest = run.fullest_micro_batch()
    assert run.positions_of(fullest) == slow_fullest(run)
    assert fullest in in_order([step for _, step in run.steps_from(0)])


def test_the_fullest_micro_batch_of_a_long_run_is_found_without_planning_every_epoch() -> None:
    config = DistributedTrainingConfig(data_path="d", output_dir="o", max_steps=10**9)
    assert TrainingPlan([100, 300, 200], config, world_size=1).fullest_micro_batch() == (1, 2, 0)
