"""Clips grouped by voice, on made vectors: each voice is a direction, each clip has noise."""

import numpy as np
import pytest

from voice_cloning.speech.voice_groups import linked_groups, mean_vectors, nearest_groups, voices_among

THRESHOLD = 0.7


def made(sizes: list[int], noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return (clips, 64) unit vectors, and the (clips,) voice of each; voice n has ``sizes[n]`` clips."""
    numbers = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    vectors = numbers.normal(0, 1 / 8, (len(sizes), 64))[truth] + numbers.normal(0, noise / 8, (len(truth), 64))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), truth


def joined_by_hand(vectors: np.ndarray, threshold: float) -> set[frozenset[int]]:
    """Average linkage as its definition says."""
    groups = [[i] for i in range(len(vectors))]
    while len(groups) > 1:
        pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
        similarity = [(vectors[groups[a]] @ vectors[groups[b]].T).mean() for a, b in pairs]
        if max(similarity) < threshold:
            break
        a, b = pairs[int(np.argmax(similarity))]
        groups[b] += groups.pop(a)
    return {frozenset(group) for group in groups}


def as_sets(groups: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == number).tolist()) for number in np.unique(groups)}


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.4, 0.6])
def test_groups_are_those_of_average_linkage(threshold: float) -> None:
    vectors, _ = made([4, 3, 5, 1], noise=1.0)
    vectors *= np.float32(1.1)  # scaled vectors may be longer than 1
    expected = joined_by_hand(vectors, threshold)
    assert as_sets(linked_groups(vectors, threshold)) == expected
    assert 1 < len(expected) < len(vectors), "the threshold decides something"


def test_voices_are_found_and_numbered_by_size_and_then_by_place() -> None:
    vectors, truth = made([2, 5, 1, 5, 3])
    order = np.random.default_rng(1).permutation(len(truth))
    voices = voices_among(vectors[order], THRESHOLD)
    sizes = np.bincount(truth)
    first = [int(np.flatnonzero(truth[order] == voice)[0]) for voice in range(5)]
    rank = sorted(range(5), key=lambda voice: (-sizes[voice], first[voice]))
    assert voices.tolist() == [rank.index(voice) for voice in truth[order]]


@pytest.mark.parametrize("most", [3, 10, 40])
def test_many_clips_are_linked_in_parts_with_the_same_result(most: int) -> None:
    vectors, truth = made([1, 30, 2, 8, 17, 1, 1])
    order = np.random.default_rng(2).permutation(len(truth))
    in_parts = voices_among(vectors[order], THRESHOLD, most)
    assert as_sets(in_parts) == as_sets(truth[order])
    assert in_parts.tolist() == voices_among(vectors[order], THRESHOLD).tolist()


def test_the_limits_of_the_threshold_and_few_clips() -> None:
    vectors, _ = made([3, 3])
    assert voices_among(vectors, 1.5).tolist() == [0, 1, 2, 3, 4, 5]
    assert voices_among(vectors, -1.5).tolist() == [0] * 6
    assert voices_among(vectors[:1], THRESHOLD).tolist() == [0]
    assert voices_among(vectors[:0], THRESHOLD).tolist() == []
    assert linked_groups(vectors[:1], THRESHOLD).tolist() == [0]


def test_the_nearest_group_has_the_highest_mean_similarity() -> None:
    vectors, truth = made([4, 5, 6], noise=0.8)
    others, _ = made([1500], noise=5.0, seed=3)
    nearest, similarity = nearest_groups(others, mean_vectors(vectors, truth))
    means = np.stack([(others @ vectors[truth == voice].T).mean(axis=1) for voice in range(3)], axis=1)
    assert nearest.tolist() == means.argmax(axis=1).tolist()
    assert similarity == pytest.approx(means.max(axis=1), abs=1e-6)
