"""Groups clips by voice: average linkage of speaker embeddings.

Everything here works on (N, D) vectors of N clips whose products are similarities (``scaled_vectors``).
"""

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from boson_multimodal.progress import progress

MOST_LINKED = 10_000
"""Clips that are linked at a time: memory and time grow with the square of their number."""
ROWS_AT_ONCE = 1024
"""Clips that are compared with all groups at a time."""


def linked_groups(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Return the (clips,) number of the group of each clip, from 0.

    The two groups whose clips have the highest mean similarity are joined, again and again, while that mean is not
    below the threshold.
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors), np.int64)
    distances = 1 - vectors @ vectors.T
    lowest = min(0.0, float(distances.min()))  # scaled vectors may be more similar than 1; linkage wants no negatives
    distances = (distances + distances.T) / 2 - lowest
    np.fill_diagonal(distances, 0.0)
    joined = linkage(squareform(distances, checks=False), "average")
    return fcluster(joined, 1 - threshold - lowest, "distance").astype(np.int64) - 1


def voices_among(vectors: np.ndarray, threshold: float, most: int = MOST_LINKED) -> np.ndarray:
    """Return the (clips,) number of the voice of each clip: 0 is the voice with most clips.

    Up to ``most`` clips are linked. Of more, every so many-th is; each of the others joins the group of the highest
    mean similarity, if that is not below the threshold. What joins none is linked in the next round.
    """
    voices = np.zeros(len(vectors), np.int64)
    rest, count = np.arange(len(vectors)), 0
    while len(rest):
        is_linked = np.zeros(len(rest), bool)
        is_linked[np.linspace(0, len(rest) - 1, min(len(rest), most)).round().astype(np.int64)] = True
        linked, others = rest[is_linked], rest[~is_linked]
        groups = linked_groups(vectors[linked], threshold)
        voices[linked] = groups + count
        nearest, similarity = nearest_groups(vectors[others], mean_vectors(vectors[linked], groups))
        voices[others] = nearest + count
        rest, count = others[similarity < threshold], count + groups.max() + 1
    return by_size(voices)


def by_size(groups: np.ndarray) -> np.ndarray:
    """Return the (clips,) numbers of groups: 0 has most clips; of groups of one size, the one with the first clip."""
    _, first, number, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    return np.argsort(np.lexsort((first, -counts)))[number]


def mean_vectors(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return (groups, D) means. A product with one is the mean similarity to the clips of the group."""
    sums = np.zeros((groups.max() + 1, vectors.shape[1]), np.float64)
    np.add.at(sums, groups, vectors)
    return (sums / np.bincount(groups)[:, None]).astype(np.float32)


def nearest_groups(vectors: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (clips,) groups of the highest mean similarity, and these similarities."""
    nearest, similarity = np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.float32)
    starts = range(0, len(vectors), ROWS_AT_ONCE)
    for start in progress(starts, "comparing voices", unit="block", disable=not starts):
        rows = slice(start, start + ROWS_AT_ONCE)
        products = vectors[rows] @ means.T
        nearest[rows], similarity[rows] = products.argmax(axis=1), products.max(axis=1)
    return nearest, similarity
