"""The scores of groups against known speakers."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from benchmarks.clustered_voices import Scores, chosen_threshold


def b_cubed_by_clip(groups: np.ndarray, names: np.ndarray) -> float:
    """B-cubed as its definition says, clip by clip."""
    pairs = [(groups == groups[i], names == names[i]) for i in range(len(names))]
    precision = np.mean([(in_group & of_name).sum() / in_group.sum() for in_group, of_name in pairs])
    recall = np.mean([(in_group & of_name).sum() / of_name.sum() for in_group, of_name in pairs])
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_their_definitions(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    names = numbers.integers(0, 5, 60)
    groups = np.where(numbers.random(60) < 0.6, names, numbers.integers(0, 7, 60))
    scores = Scores.of(groups, np.array([f"speaker {name}" for name in names]))
    assert scores.voices == len(set(groups.tolist()))
    assert scores.purity == sum(np.bincount(names[groups == group]).max() for group in set(groups.tolist())) / 60
    assert scores.b_cubed == pytest.approx(b_cubed_by_clip(groups, names))
    assert scores.rand == pytest.approx(adjusted_rand_score(names, groups))


def test_a_perfect_result_has_the_best_scores() -> None:
    names = np.array(["b", "a", "b", "c", "a"])
    assert Scores.of(np.array([1, 0, 1, 5, 0]), names) == Scores(3, 1.0, 1.0, 1.0)


def test_the_threshold_is_the_middle_of_the_best_ones() -> None:
    """Two voices whose clips are equal; the voices have a similarity of 0.9."""
    vectors = np.repeat(np.array([[1, 0], [0.9, 0.19**0.5]], np.float32), 4, axis=0)
    threshold = chosen_threshold(vectors, np.repeat(["a", "b"], 4))
    assert threshold == pytest.approx((0.905 + 0.98) / 2, abs=0.003)
