"""What an epoch of a mixture takes: exact shares, every sample equally often, and a pure function of the epoch."""

import random
import time
import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boson_multimodal.errors import InputError
from voice_cloning.training.batch_planning import TrainingPlan
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.epoch_samples import EpochSamples, MixedSamples
from voice_cloning.training.mixtures import samples_of_epoch, share_words, weight_problems

NAMES = ["new.json", "base", "third.jsonl", "fourth", "fifth"]


def mixed(sizes: list[int], per_epoch: list[int], seed: int = 0) -> MixedSamples:
    lengths = np.random.default_rng(0).integers(20, 400, sum(sizes), dtype=np.int32)
    return MixedSamples(EpochSamples(lengths), sizes, per_epoch, seed)


def parts_of(taken: np.ndarray, sizes: list[int]) -> list[list[int]]:
    """The samples of each data set, numbered from 0 in it."""
    starts = np.cumsum([0, *sizes])
    return [(taken[(taken >= a) & (taken < b)] - a).tolist() for a, b in pairwise(starts)]


# -- how many ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "weights", "wanted"),
    [
        ([4000, 1000], [0.8, 0.2], (4000, 1000)),
        ([4000, 1000], [0.7, 0.3], (3500, 1500)),
        ([10, 10, 10], [0.7, 0.2, 0.1], (21, 6, 3)),
        ([3, 3, 4], [1, 1, 1], (4, 3, 3)),
        ([5, 5], [0.15, 0.85], (2, 8)),  # a tie of the remainders: the earlier path
        ([1, 9], [9, 1], (9, 1)),
        ([7], [0.3], (7,)),
        ([1, 1], [1e308, 1e308], (1, 1)),
    ],
)
def test_an_epoch_has_as_many_samples_as_all_paths_and_each_path_its_share(
    sizes: list[int], weights: list[float], wanted: tuple[int, ...]
) -> None:
    assert samples_of_epoch(NAMES, sizes, weights) == wanted
    assert sum(wanted) == sum(sizes)


@pytest.mark.parametrize("seed", range(50))
def test_a_share_is_wrong_by_less_than_a_sample_on_any_scale(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice([1, 30, 999, 10**5]) for _ in range(rng.randint(1, 5))]
    weights = [rng.randint(1, 40) / 40 for _ in sizes]
    try:
        counts = samples_of_epoch(NAMES, sizes, weights)
    except InputError:
        assert min(weights) / sum(weights) * sum(sizes) < 1
        return
    total = sum(sizes)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - Fraction(weight) / Fraction(sum(map(Fraction, weights))) * total) < 1
    for scale in (10, 1000):
        assert samples_of_epoch(NAMES, sizes, [round(weight * 40) * scale for weight in weights]) == counts


def test_a_path_that_would_give_nothing_is_refused_and_the_advice_is_enough() -> None:
    with pytest.raises(InputError) as caught:
        samples_of_epoch(NAMES, [60, 30, 10], [1.0, 0.001, 0.002])
    assert str(caught.value).splitlines() == [
        "--data_weights: an epoch has 100 samples, as many as all paths together, and would take none of a path (2):",
        "  base: its weight is 0.001; give it 0.0103 or more, or leave the path out",
        "  third.jsonl: its weight is 0.002; give it 0.0103 or more, or leave the path out",
    ]
    assert samples_of_epoch(NAMES, [60, 30, 10], [1.0, 0.0103, 0.0103]) == (98, 1, 1)
    for seed in range(200):
        rng = random.Random(seed)
        sizes = [rng.randint(1, 50) for _ in range(3)]
        weights = [10.0 ** rng.uniform(-6, 0), 10.0 ** rng.uniform(-6, 0), 1.0]
        try:
            samples_of_epoch(NAMES, sizes, weights)
        except InputError as error:
            lines = [line.split() for line in str(error).splitlines()[1:]]
            for words in lines:
                weights[NAMES.index(words[0][:-1])] = float(words[words.index("it") + 1])
            assert min(samples_of_epoch(NAMES, sizes, weights)) > 0


@pytest.mark.parametrize(
    ("weights", "problems"),
    [
        ([0.7, 0.3], []),
        ([7, 3], []),
        ([0.7], ["data_weights is 0.7: 1 weight for 2 paths of data_path; give one for each path, in the same order"]),
        ([1, 2, 3], ["data_weights is 1 2 3: 3 weights for 2 paths of data_path; give one for each path, in the same"]),
        ([0, 1], ["data_weights is 0 for path new.json; it must be a finite number above 0; leave the path out if"]),
        (
            [-1, float("nan")],
            ["data_weights is -1 for path new.json; it", "data_weights is nan for path base; it must"],
        ),
        ([float("inf"), 1], ["data_weights is inf for path new.json; it must be a finite number above 0"]),
        ([0, 1, -1], ["3 weights for 2 paths", "data_weights is 0 for path 1;", "data_weights is -1 for path 3;"]),
    ],
)
def test_weights_that_cannot_be_used_are_all_named(weights: list[float], problems: list[str]) -> None:
    found = weight_problems(weights, NAMES[:2])
    assert len(found) == len(problems)
    for problem, part in zip(found, problems, strict=True):
        assert part in problem
    if problems:
        with pytest.raises(InputError) as caught:
            DistributedTrainingConfig(data_path=NAMES[:2], output_dir="o", data_weights=weights)
        assert all(problem in str(caught.value) for problem in found)


def test_a_share_in_words() -> None:
    assert share_words(2800, 1600, 4000) == "70.0 % of an epoch, each sample 1.75 times"
    assert share_words(1200, 2400, 4000) == "30.0 % of an epoch, each sample 0.5 times"
    assert share_words(123456, 1, 200000) == "61.7 % of an epoch, each sample 123,456 times"
    assert share_words(3, 3000, 3000) == "0.1 % of an epoch, each sample 0.001 times"


# -- which -------------------------------------------------------------------------------------------------------------


def slow_row(samples: MixedSamples, number: int, entries: int) -> list[int]:
    """The first entries of a data set's endless row, pass by pass."""
    row: list[int] = []
    while len(row) < entries:
        row += samples._order(number, len(row) // samples._sizes[number]).tolist()
    return row[:entries]


@pytest.mark.parametrize(
    ("sizes", "per_epoch"),
    [([4, 40], [31, 13]), ([1, 6], [6, 1]), ([50, 3, 7], [50, 3, 7]), ([9, 3], [5, 7]), ([5], [5])],
)
def test_epochs_take_the_rows_of_passes_one_after_the_other(sizes: list[int], per_epoch: list[int]) -> None:
    samples, epochs = mixed(sizes, per_epoch, seed=7), 30
    taken = [parts_of(samples.taken(epoch), sizes) for epoch in range(epochs)]
    for number, (size, count) in enumerate(zip(sizes, per_epoch, strict=True)):
        row = slow_row(samples, number, epochs * count)
        times = Counter[int]()
        for epoch in range(epochs):
            assert taken[epoch][number] == sorted(row[epoch * count : (epoch + 1) * count])
            times.update(taken[epoch][number])
            often = [times[sample] for sample in range(size)]
            assert max(often) - min(often) <= 1
    assert samples.taken(0).dtype == np.int32
    for epoch in (17, 3, 29, 0):  # in any order, as after a resume
        assert parts_of(mixed(sizes, per_epoch, seed=7).taken(epoch), sizes) == taken[epoch]


def test_seeds_paths_and_passes_draw_differently() -> None:
    sizes, per_epoch = [40, 40], [20, 60]
    one, other = mixed(sizes, per_epoch, seed=1), mixed(sizes, per_epoch, seed=2)
    first = parts_of(one.taken(0), sizes)
    assert parts_of(one.taken(0), sizes) == first != parts_of(other.taken(0), sizes)
    assert len({tuple(one._order(number, step)) for number in (0, 1) for step in range(3)}) == 6
    halves = [parts_of(one.taken(epoch), sizes)[0] for epoch in range(4)]
    assert sorted(halves[0] + halves[1]) == sorted(halves[2] + halves[3]) == list(range(40)) and halves[0] != halves[2]


def config(**settings: Any) -> DistributedTrainingConfig:
    how = {"data_path": "d", "output_dir": "o", "max_tokens_per_batch": 900, "num_train_epochs": 3, "seed": 5}
    return DistributedTrainingConfig(**{**how, **settings})


def planned(samples: Any, settings: DistributedTrainingConfig, world: int, start: int = 0) -> list[Any]:
    return [(epoch, tuple(step)) for epoch, step in TrainingPlan(samples, settings, world).steps_from(start)]


def test_weights_in_proportion_to_the_sizes_are_the_run_without_weights() -> None:
    sizes = [30, 71]
    samples = mixed(sizes, sizes)
    assert samples.are_alike and planned(samples, config(), 2) == planned(samples.lengths(0), config(), 2)
    twice = mixed([10, 40], [20, 30])
    assert not twice.are_alike and mixed([10, 20], [30, 20]).are_alike


def test_a_plan_of_a_mixture_is_exact_from_any_step_on_any_number_of_processes() -> None:
    samples = mixed([40, 25], [22, 43])
    whole = planned(samples, config(gradient_accumulation_steps=4), 1)
    taken = [
        [i for _, step in whole if _ == epoch for row in step for batch in row for i in batch] for epoch in (0, 1, 2)
    ]
    for epoch, indices in enumerate(taken):
        assert sorted(indices) == samples.taken(epoch).tolist()
    assert len({tuple(sorted(indices)) for indices in taken}) == 3
    for start in range(0, len(whole), 3):
        assert planned(samples, config(gradient_accumulation_steps=4), 1, start) == whole[start:]
    for world, accumulation in ((4, 1), (2, 2)):
        split = planned(samples, config(gradient_accumulation_steps=accumulation), world)
        flat = [[(e, [batch for row in step for batch in row]) for e, step in steps] for steps in (split, whole)]
        assert flat[0] == flat[1]
    move = TrainingPlan(samples, config(), 4).origin_at(3)
    rest = TrainingPlan(samples, config(), 3, move).steps_from(3)
    batches = [batch for steps in (whole[:3], rest) for _, step in steps for row in step for batch in row if batch]
    assert batches == [batch for _, step in whole for row in step for batch in row if batch]
    run = TrainingPlan(samples, config(), 2)
    fullest = max((b for _, step in run.steps_from(0) for row in step for b in row), key=run.positions_of)
    assert run.positions_of(run.fullest()[1]) == run.positions_of(fullest)
    assert run.positions_per_step == samples.lengths(0)[samples.taken(0)].sum() / run.steps_per_epoch


class Growing(EpochSamples):
    """Samples that are longer in each epoch."""

    are_alike = False

    def lengths(self, epoch: int) -> np.ndarray:
        return self._lengths + epoch


def test_a_mixture_of_samples_whose_lengths_change_takes_those_of_its_epoch() -> None:
    every = Growing(np.full(6, 100, np.int32))
    samples = MixedSamples(every, [2, 4], [2, 4], seed=1)
    assert not samples.are_alike and samples.lengths(7).tolist() == [107] * 6
    run = TrainingPlan(samples, config(num_train_epochs=2, batch_size=6), 1)
    assert [step.positions for _, step in run.steps_from(0)] == [600, 606]
    assert run.fullest()[0] == 1


def test_half_a_million_samples_of_a_mixture_take_two_seconds_and_50_megabytes() -> None:
    """Also where a path of one sample comes 150,000 times."""
    sizes = [200_000, 299_999, 1]
    lengths = np.random.default_rng(0).integers(60, 740, sum(sizes), dtype=np.int32)
    tracemalloc.start()
    began = time.process_time()
    samples = MixedSamples(EpochSamples(lengths), sizes, samples_of_epoch(NAMES, sizes, [0.5, 0.2, 0.3]), seed=3)
    run = TrainingPlan(samples, DistributedTrainingConfig(data_path="d", output_dir="o", num_train_epochs=1), 8)
    next(run.steps_from(0))
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2 and peak < 50e6


def test_a_path_may_be_given_alone_or_in_a_list() -> None:
    for given in ("a.json", Path("a.json"), ["a.json"], [Path("a.json")]):
        assert DistributedTrainingConfig(data_path=given, output_dir="o").data_path == ["a.json"]
    for given in ("", [], [""], ["a.json", ""], None):
        with pytest.raises(InputError, match="data_path is empty; give a path"):
            DistributedTrainingConfig(data_path=given, output_dir="o")
