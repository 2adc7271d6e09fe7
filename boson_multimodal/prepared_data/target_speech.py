"""What a folder of prepared data knows of its targets: which clips may be references, and their joins in an epoch."""

from dataclasses import dataclass

import numpy as np

from boson_multimodal.prepared_data.candidate_pool import CandidatePool, Takers, mixed

SHORTEST_SECONDS, LONGEST_SECONDS = 3, 10
"""Seconds of a drawn reference. Two clips that are shorter than the first have together less than the second."""


@dataclass(frozen=True, eq=False)
class Joins:
    """Short clips of one speaker, side by side. No join holds two clips of one group.

    Attributes:
        parts: (P,) the samples whose targets are joined, those of a join one after the other.
        starts: (J + 1,) where each join begins in ``parts``.
    """

    parts: np.ndarray
    starts: np.ndarray

    @classmethod
    def none(cls) -> "Joins":
        """Return no joins."""
        return cls(np.zeros(0, np.int32), np.zeros(1, np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return (J,) the sum over the parts of each join of (P,) values."""
        ends = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return np.diff(ends[self.starts])


@dataclass(frozen=True, eq=False)
class TargetSpeech:
    """The targets of a data set: int32 arrays with an entry for each sample.

    Attributes:
        numbers: of the samples in the ChatML file.
        speakers: number of the speaker; negative without one.
        groups: targets with the same speech have the same group.
        clips: number of the target's clip.
        frames: its code frames.
        texts: ids of its text.
        joined_texts: ids that its text adds after another text and a space; 0 if it cannot be joined.
        rest: positions of the sample without the reference's text and clip.
        limit: the most positions of a sample.
        around_clip: positions of a clip beside its frames.
        frames_per_second: of the codec.
    """

    numbers: np.ndarray
    speakers: np.ndarray
    groups: np.ndarray
    clips: np.ndarray
    frames: np.ndarray
    texts: np.ndarray
    joined_texts: np.ndarray
    rest: np.ndarray
    limit: int
    around_clip: int
    frames_per_second: float

    def positions(self, samples: np.ndarray) -> np.ndarray:
        """Return the positions that targets take as references."""
        return self.texts[samples] + self.frames[samples] + self.around_clip

    def different_clips(self, is_wanted: np.ndarray) -> np.ndarray:
        """Return the first sample of each clip of each speaker among the wanted samples, ascending."""
        wanted = np.flatnonzero(is_wanted & (self.speakers >= 0))
        pairs = self.speakers[wanted].astype(np.int64) << 32 | self.clips[wanted]
        return wanted[np.sort(np.unique(pairs, return_index=True)[1])].astype(np.int32)

    def whole_clips(self) -> np.ndarray:
        """Return the samples whose target is as long as a reference should be, each clip of a speaker once."""
        seconds = self.frames / self.frames_per_second
        return self.different_clips((seconds >= SHORTEST_SECONDS) & (seconds <= LONGEST_SECONDS))

    def short_clips(self) -> np.ndarray:
        """Return the samples whose target can be a part of a join, each clip of a speaker once."""
        seconds = self.frames / self.frames_per_second
        return self.different_clips((seconds < SHORTEST_SECONDS) & (self.joined_texts > 0))

    def has_groups(self, samples: np.ndarray, count: int) -> np.ndarray:
        """Return (speakers,) whether a speaker has at least ``count`` groups among some samples."""
        pairs = np.unique(self.speakers[samples].astype(np.int64) << 32 | self.groups[samples])
        return np.bincount(pairs >> 32, minlength=self.num_speakers) >= count

    @property
    def num_speakers(self) -> int:
        """The number of speakers."""
        return int(self.speakers.max(initial=-1)) + 1

    def of_speakers(self, samples: np.ndarray, is_wanted: np.ndarray) -> np.ndarray:
        """Return those of some samples whose speaker is wanted, of (speakers,) booleans."""
        return samples[is_wanted[self.speakers[samples]]]

    def takers(self, is_wanted: np.ndarray) -> Takers:
        """Return all samples of the wanted speakers."""
        samples = self.of_speakers(np.flatnonzero(self.speakers >= 0).astype(np.int32), is_wanted)
        room = self.limit - self.rest[samples]
        return Takers(samples, self.speakers[samples], self.groups[samples], room)

    def joined(self, joins: Joins) -> tuple[np.ndarray, np.ndarray]:
        """Return (J,) the ids of the text of each join, and its positions as a reference."""
        added = self.joined_texts[joins.parts]
        added[joins.starts[:-1]] = self.texts[joins.parts[joins.starts[:-1]]]
        texts = joins.sums(added)
        return texts, texts + joins.sums(self.frames[joins.parts]) + self.around_clip

    def longest_join(self, short: np.ndarray) -> np.ndarray:
        """Return (speakers,) a number of positions that no join of short clips exceeds; 0 without short clips."""
        most = np.zeros(self.num_speakers)
        # The clip that makes a join long enough is short itself.
        frames = 2 * SHORTEST_SECONDS * self.frames_per_second
        ratios = np.maximum(self.texts[short], self.joined_texts[short]) / self.frames[short]
        np.maximum.at(most, self.speakers[short], frames * (1 + ratios) + self.around_clip)
        return np.ceil(most).astype(np.int32)

    def pool(self, whole: np.ndarray, joins: Joins, takers: Takers) -> CandidatePool:
        """Return the pool of whole clips, given by their samples, and of joins after them."""
        firsts = joins.parts[joins.starts[:-1]]
        holders = np.repeat(np.arange(len(joins)), np.diff(joins.starts)) + len(whole)
        return CandidatePool(
            np.concatenate([self.speakers[whole], self.speakers[firsts]]),
            np.concatenate([self.positions(whole), self.joined(joins)[1]]).astype(np.int32),
            np.concatenate([np.arange(len(whole)), holders]),
            np.concatenate([self.groups[whole], self.groups[joins.parts]]),
            takers,
        )

    def join(self, short: np.ndarray, seed: int) -> Joins:
        """Join short clips in a random order: of each speaker one after the other, until a join is long enough.

        A clip of a group that the join has already is left out, and so is what remains at the end.

        Args:
            short: samples of short clips.
            seed: of the order, from 0.
        """
        order = short[np.lexsort((mixed(self.numbers[short], seed), self.speakers[short]))]
        ends = np.flatnonzero(np.diff(self.speakers[order], append=-1)) + 1
        enough = SHORTEST_SECONDS * self.frames_per_second
        parts: list[np.ndarray] = [np.zeros(0, np.int32)]
        sizes: list[int] = []
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True) if len(order) else ():
            of_speaker = order[start:end]
            taken, found = _join_in_order(self.frames[of_speaker].tolist(), self.groups[of_speaker].tolist(), enough)
            parts.append(of_speaker[taken])
            sizes += found
        return Joins(np.concatenate(parts), np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64))


def _join_in_order(frames: list[int], groups: list[int], enough: float) -> tuple[list[int], list[int]]:
    """Return which clips of a speaker are joined, and the number of clips of each join."""
    taken: list[int] = []
    sizes: list[int] = []
    current: list[int] = []
    held: set[int] = set()
    total = 0
    for index, (count, group) in enumerate(zip(frames, groups, strict=True)):
        if group in held:
            continue
        current.append(index)
        held.add(group)
        total += count
        if total >= enough:
            taken += current
            sizes.append(len(current))
            current, held, total = [], set(), 0
    return taken, sizes
