"""Tests of the measures of codes against slow, obvious functions."""

import numpy as np
import pytest

from tests.voice_cloning.data_check.coded_records import codes
from voice_cloning.data_check.code_measures import (
    END_CODEBOOKS,
    codes_hash,
    measure_codes,
    rarer_at_the_end,
    shared_frames,
)


def equal(one: np.ndarray, i: int, other: np.ndarray, j: int) -> bool:
    return bool((one[:, i] == other[:, j]).all())


def slow_still(clip: np.ndarray) -> int:
    best = run = 1
    for t in range(1, clip.shape[1]):
        run = run + 1 if equal(clip, t, clip, t - 1) else 1
        best = max(best, run)
    return best


def slow_loop(clip: np.ndarray) -> int:
    best = 0
    for lag in range(2, clip.shape[1]):
        run = 0
        for t in range(lag, clip.shape[1]):
            is_still = equal(clip, t, clip, t - 1)
            run = run + (not is_still) if equal(clip, t, clip, t - lag) else 0
            best = max(best, run)
    return best


def slow_shared(one: np.ndarray, other: np.ndarray) -> float:
    moving = [[t for t in range(c.shape[1]) if t == 0 or not equal(c, t, c, t - 1)] for c in (one, other)]
    counts = [
        sum(equal(one, t, other, t + later) for t in moving[0] if t + later in set(moving[1]))
        for later in range(-one.shape[1], other.shape[1])
    ]
    return max(counts) / min(map(len, moving))


def stitched(seed: int) -> np.ndarray:
    """Return codes of a few random passages, some of which are repeated, held or shared between seeds."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(rng.integers(1, 6)):
        part = codes(int(rng.integers(4)), int(rng.integers(1, 12)))
        part = part[:, rng.integers(0, part.shape[1]) :]
        parts += [np.repeat(part, rng.integers(1, 4), axis=1)] * rng.integers(1, 3)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("seed", range(40))
def test_measures_equal_those_of_slow_functions(seed: int) -> None:
    one, other = stitched(seed), stitched(1000 + seed)
    measured = measure_codes(one)
    assert (measured.codebooks, measured.frames) == one.shape
    assert measured.longest_still == slow_still(one)
    assert measured.still_share == pytest.approx(
        np.mean([equal(one, t, one, t - 1) for t in range(1, one.shape[1])]) if one.shape[1] > 1 else 0.0
    )
    assert measured.longest_loop == slow_loop(one)
    share, later = shared_frames(measured.fingerprint, measure_codes(other).fingerprint)
    assert share == pytest.approx(slow_shared(one, other))
    back, earlier = shared_frames(measure_codes(other).fingerprint, measured.fingerprint)
    assert back == share
    assert shared_frames(measured.fingerprint, measured.fingerprint) == (1.0, 0)


def test_each_code_and_the_shape_change_the_hash() -> None:
    clip = codes(0, 10)
    found = {codes_hash(clip), codes_hash(clip.reshape(10, 8)), codes_hash(clip[:, :9])}
    for book in range(8):
        changed = clip.copy()
        changed[book, 5] ^= 1
        found.add(codes_hash(changed))
        assert not np.array_equal(measure_codes(changed).fingerprint, measure_codes(clip).fingerprint)
    assert len(found) == 11
    assert codes_hash(clip.astype(np.int64)) == codes_hash(clip)


@pytest.mark.parametrize("frames", [90_000])
def test_an_hour_of_codes_is_measured_in_a_moment(frames: int) -> None:
    """Long loops make no pair of each frame with each."""
    loop = np.tile(codes(0, 2), frames // 2)
    measured = measure_codes(loop)
    assert (measured.longest_loop, measured.loop_lag) == (frames - 2, 2)
    assert shared_frames(measured.fingerprint, measured.fingerprint) == (0.0, 0)
    assert measure_codes(np.zeros((8, frames), np.int16)).longest_still == frames


def test_ends_within_speech_are_unlike_other_ends() -> None:
    """Speech has the codes from 10 on; clips end with codes below 10, but for five."""
    rng = np.random.default_rng(0)
    clips = [rng.integers(10, 64, (END_CODEBOOKS, 40)) for _ in range(1200)]
    for clip in clips[5:]:
        clip[:, -2:] = rng.integers(0, 10, (END_CODEBOOKS, 2))
    rarer = rarer_at_the_end(clips)
    assert (rarer[:5] > np.log(20)).all() and (rarer[5:] < 0).all()
    shuffled = rng.permutation(1200)
    assert rarer_at_the_end([clips[i] for i in shuffled]) == pytest.approx(rarer[shuffled])
    alike = [rng.integers(10, 64, (END_CODEBOOKS, 40)) for _ in range(1200)]
    assert (np.abs(rarer_at_the_end(alike)) < np.log(20)).all(), "if all clips are cut, none is unlike the others"
