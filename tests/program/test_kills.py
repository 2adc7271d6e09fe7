"""Killed runs: the same command goes on, and ends with exactly the weights and losses of the run that nobody killed."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boson_multimodal.audio_processing.packed_store import PackedStore
from tests.killed_runs import KilledRun, Starter

RANKS = [(0,), (1,), (0, 1)]


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with Starter() as found:
        yield found


def test_a_run_that_is_killed_in_each_of_its_phases(starter: Starter, demo: Path, tmp_path: Path) -> None:
    subject = KilledRun(starter, demo, tmp_path, 1)
    cache = tmp_path / "cache-killed"

    def encoded() -> int:
        return sum(PackedStore(path.parent, bool).sizes()[1] for path in cache.glob("*/config.json"))

    phases: list[tuple[Callable[[], bool], float]] = [
        (lambda: encoded() > 0, 0.0),
        (subject.is_writing, 0.0),
        (lambda: subject.says(b"of 24: loss "), 0.1),
        (subject.is_writing, 0.1),
        (lambda: subject.says(b"evaluating"), 0.01),
    ]
    for reached, delay in phases:
        assert subject.kill(reached, delay)
    assert subject.kills_of_a_write > 0
    subject.check_finished()


def test_a_run_of_two_ranks_of_which_one_or_both_are_killed(starter: Starter, demo: Path, tmp_path: Path) -> None:
    subject = KilledRun(starter, demo, tmp_path, 2)
    for ranks, share in zip(RANKS, (0.3, 0.6, 0.8), strict=True):
        subject.kill(lambda: True, share * subject.seconds, ranks)
    for ranks in RANKS[:2]:
        assert subject.kill(subject.is_writing, 0.0, ranks)
    assert subject.kills + subject.finished == 5
    subject.check_finished()


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "kills"), [(1, 100), (2, 30)])
def test_runs_that_are_killed_at_random_moments(
    starter: Starter, demo: Path, tmp_path: Path, world_size: int, kills: int
) -> None:
    subject, generator = KilledRun(starter, demo, tmp_path, world_size), random.Random(2026)
    while subject.kills < kills:
        subject.kill_at_random(generator)
    subject.check_finished()
    assert subject.kills_of_a_write >= kills / 10
    print(f"{subject.kills} kills, {subject.kills_of_a_write} in a write; {subject.finished} runs finished")
