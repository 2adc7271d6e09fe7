"""Decides which pairs of clips are of two voices, and which voices lie under one name, from speaker embeddings.

Everything here works on (N, D) vectors of N clips whose products are similarities (``scaled_vectors``).
"""

from collections.abc import Sequence

import numpy as np

from boson_multimodal.progress import progress
from boson_multimodal.seeds import seed_of
from voice_cloning.speech.voice_groups import linked_groups

NEIGHBOURS = 3
"""A doubtful pair is judged from each clip and up to this many other clips that sound most like it."""
SURE_SHARE = 0.4
"""A similarity is sure to be that of one voice if it is above the threshold by this share of what is left to 1."""
ROWS_AT_ONCE = 1024
"""Rows of the (N, N) similarities that are in memory at a time."""
FEWEST_CLIPS_OF_A_VOICE = 3
"""A second voice under one name is reported if it has this many clips: fewer may be a whisper or a cough."""
MOST_CLIPS_GROUPED = 1000
"""Clips of one speaker that are grouped; all others join the nearest group."""
FEWEST_SPEAKERS, MOST_PAIRS = 5, 20_000
"""Named speakers that a threshold needs, and pairs that it is computed from."""
FOUND_SHARE = 0.95
"""Share of pairs of different voices that stay below a threshold."""
LARGEST_OVERLAP = 0.1
"""If more pairs of one speaker are below a threshold, the model does not tell the speakers apart."""


def sure(threshold: float) -> float:
    """Return the similarity from which two clips are taken for one voice without a second look."""
    return threshold + SURE_SHARE * (1 - threshold)


def pair_similarities(vectors: np.ndarray, pairs: Sequence[tuple[int, int]], threshold: float) -> np.ndarray:
    """Return the (pairs,) similarities of pairs of clips.

    The similarity of a pair below ``sure(threshold)`` is the mean over two small groups: each clip with its nearest
    neighbours among all clips but the other one, as far as they are surely of its own voice. So the other clips of a
    voice make a short or unusual clip certain, whatever the names of the speakers are.
    """
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    found = np.einsum("nd,nd->n", vectors[one], vectors[other])
    doubtful = np.flatnonzero(found < sure(threshold))
    wanted = np.unique(np.concatenate([one[doubtful], other[doubtful]]))
    neighbours = dict(zip(wanted.tolist(), nearest(vectors, wanted, NEIGHBOURS + 1), strict=True))
    for at in doubtful:
        i, j = int(one[at]), int(other[at])
        groups = [_group(vectors, clip, partner, neighbours[clip], threshold) for clip, partner in ((i, j), (j, i))]
        found[at] = (vectors[groups[0]] @ vectors[groups[1]].T).mean()
    return found


def _group(vectors: np.ndarray, clip: int, partner: int, neighbours: np.ndarray, threshold: float) -> list[int]:
    others = [int(n) for n in neighbours if n != partner][:NEIGHBOURS]
    return [clip, *(n for n in others if vectors[clip] @ vectors[n] >= sure(threshold))]


def nearest(vectors: np.ndarray, clips: np.ndarray, count: int) -> np.ndarray:
    """Return the (clips, count) numbers of the clips that are most similar to each of some clips, nearest first.

    If there are fewer other clips, the rows are shorter.
    """
    count = min(count, len(vectors) - 1)
    found = np.zeros((len(clips), max(count, 0)), np.int64)
    if count <= 0 or not len(clips):
        return found
    starts = range(0, len(clips), ROWS_AT_ONCE)
    for start in progress(starts, "comparing voices", unit="block"):
        rows = clips[start : start + ROWS_AT_ONCE]
        similarity = vectors[rows] @ vectors.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        top = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similarity, top, axis=1), axis=1, kind="stable")
        found[start : start + len(rows)] = np.take_along_axis(top, order, axis=1)
    return found


def voices_of(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Return the (clips,) number of the voice of each clip of one speaker: 0 is the voice with most clips.

    Clips are grouped by average linkage (``linked_groups``). Groups with fewer than ``FEWEST_CLIPS_OF_A_VOICE`` clips
    are not a voice of their own.
    """
    if len(vectors) < 2 * FEWEST_CLIPS_OF_A_VOICE:
        return np.zeros(len(vectors), np.int64)
    chosen = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_CLIPS_GROUPED)).round().astype(int))
    groups = linked_groups(vectors[chosen], threshold)
    counts = np.bincount(groups)
    kept = [group for group in np.argsort(-counts, kind="stable") if counts[group] >= FEWEST_CLIPS_OF_A_VOICE]
    if len(kept) < 2:
        return np.zeros(len(vectors), np.int64)
    means = np.stack([vectors[chosen[groups == group]].mean(axis=0) for group in kept])
    return (vectors @ means.T).argmax(axis=1)


def find_threshold(vectors: np.ndarray, speakers: Sequence[str | None], seed: int = 0) -> tuple[float | None, str]:
    """Find a model's threshold from clips with the names of their speakers.

    Returns:
        (threshold, ""), or (None, reason) if the clips do not show one: too few names, or the model or the names do not
        tell voices apart.
    """
    names = np.array(["" if speaker is None else f"={speaker}" for speaker in speakers])
    named = np.flatnonzero(names != "")
    if len(np.unique(names[named])) < FEWEST_SPEAKERS:
        return None, f"the threshold of this model is found from at least {FEWEST_SPEAKERS} named speakers"
    numbers = np.random.default_rng(seed_of(seed))
    one, other = named[numbers.integers(0, len(named), (2, 4 * MOST_PAIRS))]
    differ = names[one] != names[other]
    similarity = np.einsum("nd,nd->n", vectors[one[differ][:MOST_PAIRS]], vectors[other[differ][:MOST_PAIRS]])
    threshold = float(np.quantile(similarity, FOUND_SHARE))
    # Clips of one speaker: each with the next one of the same name, in the order of names.
    order = named[np.argsort(names[named], kind="stable")]
    left, right = order[:-1], order[1:]
    same = names[left] == names[right]
    if not same.any():
        return None, "the threshold of this model is found from speakers with two clips or more"
    right_pairs = np.einsum("nd,nd->n", vectors[left[same]], vectors[right[same]])
    overlap = float((right_pairs < threshold).mean())
    if overlap > LARGEST_OVERLAP:
        return None, (
            f"this model does not tell these speakers apart, or their names are wrong: {100 * overlap:.0f} % of pairs "
            f"of one speaker are less similar than {100 * (1 - FOUND_SHARE):.0f} % of pairs of different speakers are"
        )
    return threshold, ""
