"""Measure the codes of a clip: equal frames, repeated passages, a fingerprint. This module does not import torch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from boson_multimodal.audio_processing.repeated_codes import frame_hashes, runs_of_true, still_frames
from boson_multimodal.audio_processing.sound_files import Clip
from voice_cloning.data_check.same_speech import MAX_SAME_HASH

END_CODEBOOKS = 2
"""Codebooks of the last frame that are kept. Later codebooks say more about the voice than about the sound."""


@dataclass(frozen=True)
class CodedClip(Clip):
    """A clip that is checked from its codes.

    Attributes:
        source, offset, duration: where the sound would be. After decoding, it is the decoded file.
        codes_name: the name of the clip in the files of codes.
        recording: the name without the cut.
        start: seconds from the start of the recording to the cut.
    """

    codes_name: str = ""
    recording: str = ""
    start: float = 0.0

    @property
    def name(self) -> str:
        return self.codes_name


@dataclass(frozen=True)
class CodeMeasures:
    """The measures of a clip's codes.

    Attributes:
        codebooks, frames: K and T.
        longest_still: frames in the longest run of equal frames; 1 if no frame equals the one before it.
        still_share: share of frames that equal the frame before.
        longest_loop, loop_lag: the longest passage in which every frame equals the frame ``loop_lag`` frames before
            it, at least two. Its frames are counted that differ from the frame before; 0 and 0 if there is none.
        first_codes: (``END_CODEBOOKS``, T) the codes of the first codebooks.
        fingerprint: (m, 2) uint32, a row for each frame that differs from the one before: a hash, and the frame.
    """

    codebooks: int
    frames: int
    longest_still: int
    still_share: float
    longest_loop: int
    loop_lag: int
    first_codes: np.ndarray
    fingerprint: np.ndarray


def codes_hash(codes_KT: np.ndarray) -> str:
    """Return the SHA-256 of (K, T) codes and their shape."""
    codes = np.ascontiguousarray(codes_KT, "<i2")
    return hashlib.sha256(repr(codes.shape).encode() + codes.tobytes()).hexdigest()


def measure_codes(codes_KT: np.ndarray) -> CodeMeasures:
    """Measure (K, T) int16 codes with at least one frame."""
    codebooks, frames = codes_KT.shape
    is_still = still_frames(codes_KT)
    starts, ends = runs_of_true(is_still)
    hashes = frame_hashes(codes_KT)
    longest_loop, loop_lag = _longest_loop(hashes, is_still)
    return CodeMeasures(
        codebooks=codebooks,
        frames=frames,
        longest_still=1 + int((ends - starts).max(initial=0)),
        still_share=float(is_still[1:].mean()) if frames > 1 else 0.0,
        longest_loop=longest_loop,
        loop_lag=loop_lag,
        first_codes=codes_KT[:END_CODEBOOKS].astype(np.int16),
        fingerprint=_fingerprint(hashes, is_still),
    )


def codes_fingerprint(codes_KT: np.ndarray) -> np.ndarray:
    """Return the fingerprint of (K, T) codes (see :class:`CodeMeasures`)."""
    return _fingerprint(frame_hashes(codes_KT), still_frames(codes_KT))


def _fingerprint(hashes: np.ndarray, is_still: np.ndarray) -> np.ndarray:
    moving = np.flatnonzero(~is_still)
    return np.stack([hashes[moving], moving.astype(np.uint32)], axis=1)


def shared_frames(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Compare two fingerprints and return how many frames are equal at the best time difference.

    Returns:
        The equal frames as a share of the frames of the fingerprint that has fewer, and the time difference: a frame
        of ``one`` has the codes of the frame of ``other`` that is so many frames later.
    """
    if not len(one) or not len(other):
        return 0.0, 0
    ordered = other[np.argsort(other[:, 0], kind="stable")]
    first = np.searchsorted(ordered[:, 0], one[:, 0], "left")
    counts = np.searchsorted(ordered[:, 0], one[:, 0], "right") - first
    counts[counts > MAX_SAME_HASH] = 0  # a long loop would make a pair of each frame with each
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    later = ordered[np.repeat(first, counts) + within, 1].astype(np.int64)
    differences, votes = np.unique(later - np.repeat(one[:, 1].astype(np.int64), counts), return_counts=True)
    if not len(votes):
        return 0.0, 0
    best = int(votes.argmax())
    return float(votes[best]) / min(len(one), len(other)), int(differences[best])


def rarer_at_the_end(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return for each clip how much rarer the codes of its last frame are at the ends of the others than inside clips.

    The codes of a codebook are counted over all clips, in last frames and in the frames before. A code that was seen
    rarely counts as equally frequent in both, so that few clips give small values.

    Args:
        clips: (``END_CODEBOOKS``, T) codes of each clip, T at least 2.

    Returns:
        (clips,) the natural logarithm of the ratio, summed over the codebooks. It is above 0 if the codes are frequent
        inside clips and rare at their ends.
    """
    total = np.zeros(len(clips))
    for book in range(END_CODEBOOKS):
        last = np.array([codes[book, -1] for codes in clips], np.int64)
        size = 1 + max(int(codes[book].max()) for codes in clips)
        inside = 1.0 + sum(np.bincount(codes[book, :-1], minlength=size) for codes in clips)
        inside /= inside.sum()
        at_end = np.bincount(last, minlength=size) - 1.0  # of the other clips; only entries of ``last`` are read
        at_end = (at_end + size * inside) / (len(clips) - 1 + size)
        total += np.log(inside[last]) - np.log(at_end[last])
    return total


def _longest_loop(hashes: np.ndarray, is_still: np.ndarray) -> tuple[int, int]:
    """Return the moving frames in the longest passage that repeats an earlier one, and how many frames earlier it is.

    Frames that equal the frame before are not counted: two pauses of digital silence are equal too.
    """
    best = (0, 0)
    moving = np.flatnonzero(~is_still)
    for lag in _frequent_lags(hashes[moving], moving).tolist():
        starts, ends = runs_of_true(hashes[lag:] == hashes[:-lag])
        counts = np.searchsorted(moving, ends + lag) - np.searchsorted(moving, starts + lag)
        best = max(best, (int(counts.max(initial=0)), -lag))
    return best[0], -best[1]


LAGS_TRIED = 8
"""The time differences with most equal frames are tried; one frame in a loop can equal many others."""


def _frequent_lags(hashes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return the time differences of at least two frames at which most of the frames are equal to an earlier one."""
    order = np.argsort(hashes, kind="stable")
    sorted_hashes, sorted_frames = hashes[order], frames[order]
    lags = []
    # A frame is compared with the next few frames of the same codes, which is where a loop repeats it first.
    for step in range(1, LAGS_TRIED + 1):
        is_equal = sorted_hashes[step:] == sorted_hashes[:-step]
        if not is_equal.any():
            break
        lags.append((sorted_frames[step:] - sorted_frames[:-step])[is_equal])
    if not lags:
        return np.zeros(0, np.int64)
    found, votes = np.unique(np.concatenate(lags), return_counts=True)
    votes, found = votes[found >= 2], found[found >= 2]
    return found[np.argsort(-votes, kind="stable")][:LAGS_TRIED]
