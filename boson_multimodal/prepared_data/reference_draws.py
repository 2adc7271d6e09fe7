"""Draws for each sample and epoch another recording of its speaker, by seed, epoch and sample alone.

A candidate is a clip of ``SHORTEST_SECONDS`` to ``LONGEST_SECONDS``. If a speaker has fewer than two recordings of that
length, joins of his shorter ones are candidates too; they are made anew in each epoch. A sample may take the candidates
of its speaker that hold no speech of its target's group and that fit into the limit, each with the same probability.
"""

from dataclasses import dataclass

import numpy as np

from boson_multimodal.prepared_data.candidate_pool import KEPT, mixed
from boson_multimodal.prepared_data.target_speech import Joins, TargetSpeech
from boson_multimodal.seeds import seed_of

ORDER, DRAW = 0, 1
"""What a seed is for: the order in which short clips are joined, and the draws."""


@dataclass(frozen=True, eq=False)
class EpochDraws:
    """What the samples of an epoch drew.

    Attributes:
        drawn: int32 (samples,) for each sample the index of the one whose target is its reference; or the number of a
            join, counted from the number of samples on; or ``KEPT``, if it keeps the reference of the file.
        joins: of the epoch.
    """

    drawn: np.ndarray
    joins: Joins

    def parts(self, index: int) -> list[int]:
        """Return the samples whose targets are the reference of a sample; none if it keeps that of the file."""
        draw, count = int(self.drawn[index]), len(self.drawn)
        if draw == KEPT:
            return []
        if draw < count:
            return [draw]
        start, end = self.joins.starts[draw - count : draw - count + 2].tolist()
        return self.joins.parts[start:end].tolist()

    def sizes(self, speech: TargetSpeech) -> tuple[np.ndarray, np.ndarray]:
        """Return int32 (samples,) the ids of the text of each drawn reference, and all its positions; 0 without one."""
        texts, positions = np.zeros((2, len(self.drawn)), np.int32)
        whole = np.flatnonzero((self.drawn != KEPT) & (self.drawn < len(self.drawn)))
        joined = np.flatnonzero(self.drawn >= len(self.drawn))
        texts[whole], positions[whole] = speech.texts[self.drawn[whole]], speech.positions(self.drawn[whole])
        of_joins = self.drawn[joined] - len(self.drawn)
        texts[joined], positions[joined] = (found[of_joins] for found in speech.joined(self.joins))
        return texts, positions


class ReferenceDraws:
    """The draws of all epochs.

    Args:
        speech: the targets.
        seed: of the draws.
    """

    def __init__(self, speech: TargetSpeech, seed: int) -> None:
        self._speech, self._seed = speech, seed
        whole, short = speech.whole_clips(), speech.short_clips()
        has_enough = speech.has_groups(whole, 2)
        self._whole = speech.of_speakers(whole, has_enough)
        self._pool = speech.pool(self._whole, Joins.none(), speech.takers(has_enough))
        # The others are those of speakers whose short clips are joined.
        self._few = speech.of_speakers(whole, ~has_enough)
        self._short = speech.of_speakers(short, ~has_enough)
        self._joining = speech.takers(~has_enough)

    def of_epoch(self, epoch: int) -> EpochDraws:
        """Return the draws of an epoch, counted from 0. They depend on nothing but the targets, seed and epoch."""
        count = len(self._speech.numbers)
        joins = self._speech.join(self._short, seed_of(self._seed, epoch, ORDER))
        drawn = np.full(count, KEPT, np.int32)
        numbers = np.concatenate([self._few, count + np.arange(len(joins), dtype=np.int32)])
        pool = self._speech.pool(self._few, joins, self._joining)
        for candidates, found in ((self._whole, self._pool), (numbers, pool)):
            takers = found.takers.samples
            chosen = found.draw(mixed(self._speech.numbers[takers], seed_of(self._seed, epoch, DRAW)))
            drawn[takers[chosen != KEPT]] = candidates[chosen[chosen != KEPT]]
        return EpochDraws(drawn, joins)

    @property
    def longest(self) -> int:
        """A number of positions that no sample with a drawn reference exceeds in any epoch."""
        speech, joining = self._speech, self._joining
        few = speech.pool(self._few, Joins.none(), joining).most_room
        joined = np.minimum(speech.longest_join(self._short)[joining.speakers], joining.room)
        found = [
            speech.rest[self._pool.takers.samples] + self._pool.most_room,
            speech.rest[joining.samples] + np.maximum(few, joined),
        ]
        return max(int(positions.max(initial=0)) for positions in found)
