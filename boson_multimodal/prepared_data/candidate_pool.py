"""Who may draw which reference: exact draws with equal probability, without a loop over samples."""

from dataclasses import dataclass

import numpy as np

KEPT = -1
"""The draw of a sample that keeps the reference of the file."""
HALF = 32
"""Bits of each half of a sort key: a number of the speaker or group above, a number within it below."""


def mixed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Return a uint64 hash of each number: SplitMix64, which gives the same on every machine.

    Args:
        numbers: (n,) integers from 0.
        seed: from 0, below 2**63.
    """
    found = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        found ^= found >> np.uint64(shift)
        found *= np.uint64(factor)
    return found ^ found >> np.uint64(31)


def _key(high: np.ndarray, low: np.ndarray | int) -> np.ndarray:
    return (high.astype(np.int64) << HALF) + low


@dataclass(frozen=True, eq=False)
class Takers:
    """Samples that may draw.

    Attributes:
        samples: (N,) their indices.
        speakers, groups: (N,) of their targets.
        room: (N,) the most positions of a reference, its text included.
    """

    samples: np.ndarray
    speakers: np.ndarray
    groups: np.ndarray
    room: np.ndarray


class CandidatePool:
    """The candidates of some speakers, and what each of some samples may take of them.

    The candidates of a speaker are sorted by their positions. Those that fit a sample are then the first ones, and
    those with its own speech are known places among them, so that the number of the allowed ones is exact.

    Args:
        speakers: (C,) of each candidate.
        positions: (C,) of each candidate as a reference, its text included.
        holders, groups: (M,) pairs of a candidate and a group whose speech it holds, each pair once.
        takers: who draws.

    Attributes:
        takers: who draws.
        allowed: (N,) the number of candidates that each of them may take.
        most_room: (N,) the positions of the longest candidate that fits each of them; 0 if none fits.
    """

    def __init__(
        self, speakers: np.ndarray, positions: np.ndarray, holders: np.ndarray, groups: np.ndarray, takers: Takers
    ) -> None:
        self.takers = takers
        order = np.argsort(_key(speakers, positions), kind="stable")
        keys = _key(speakers, positions)[order]
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order)) - np.searchsorted(speakers[order], speakers[order])
        self._order = order.astype(np.int32)
        first = np.searchsorted(keys, _key(takers.speakers, 0))
        fitting = np.maximum(np.searchsorted(keys, _key(takers.speakers, takers.room), "right") - first, 0)
        self._first = first.astype(np.int32)
        last = np.maximum(first + fitting - 1, 0)
        self.most_room = np.where(fitting > 0, positions[self._order[last]] if len(order) else 0, 0)

        # A segment is the candidates of one speaker that hold speech of one group, in order.
        pairs = _key(speakers[holders], groups)
        self._pairs, segments = np.unique(pairs, return_inverse=True)
        held = np.sort(_key(segments, places[holders]))
        self._starts = np.searchsorted(held, np.arange(len(self._pairs), dtype=np.int64) << HALF)
        # Before the place p of the t-th of them are p - t candidates with other speech.
        within = np.arange(len(held)) - self._starts[held >> HALF]
        self._others_before = held - within
        segment = np.searchsorted(self._pairs, _key(takers.speakers, takers.groups))
        self._segment = np.where(self._has(segment), segment, len(self._pairs)).astype(np.int32)
        own = np.searchsorted(held, _key(self._segment, fitting)) - self._start_of_segment()
        self.allowed = (fitting - np.where(self._segment < len(self._pairs), own, 0)).astype(np.int32)

    def draw(self, hashes: np.ndarray) -> np.ndarray:
        """Return (N,) the candidate of each taker; ``KEPT`` if it may take none.

        Args:
            hashes: (N,) uint64, one for each taker.
        """
        if not len(self._order):
            return np.full(len(hashes), KEPT, np.int32)
        number = ((hashes >> np.uint64(HALF)) * self.allowed.astype(np.uint64) >> np.uint64(HALF)).astype(np.int64)
        own = np.searchsorted(self._others_before, _key(self._segment, number), "right") - self._start_of_segment()
        place = self._first + number + np.where(self._segment < len(self._pairs), own, 0)
        return np.where(self.allowed > 0, self._order[np.minimum(place, len(self._order) - 1)], KEPT)

    def _has(self, segment: np.ndarray) -> np.ndarray:
        wanted = _key(self.takers.speakers, self.takers.groups)
        if not len(self._pairs):
            return np.zeros(len(wanted), bool)
        return self._pairs[np.minimum(segment, len(self._pairs) - 1)] == wanted

    def _start_of_segment(self) -> np.ndarray:
        return np.append(self._starts, 0)[self._segment]
