"""Finds clips of a data set that hold the same speech: by file, by content, by audio."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from boson_multimodal.audio_processing.sound_files import Clip, read_samples
from boson_multimodal.worker_pool import map_in_processes
from voice_cloning.data_check.clip_measures import ClipMeasures
from voice_cloning.data_check.code_measures import CodedClip
from voice_cloning.data_check.same_speech import (
    SAME_SPEECH_SHARE,
    candidate_pairs,
    share_landmarks,
    shared_share,
)

AMONG_ALL, IN_ONE_SAMPLE = 3, 1
"""Number of equal landmarks from which two clips are compared, among all clips and within one sample.

In real speech the most changed copies had 2 or 3 equal landmarks. Of pairs of different clips, one in 300,000 had 3 and
one in 240 had at least one. A sample has few pairs, so the lower number costs little there.
"""

Pair = tuple[Clip, Clip]
Uses = Sequence[tuple[Clip, str, bool]]
"""The clips of one sample: (clip, side, whether it is a target)."""


class SameClips:
    """Knows which clips hold the same speech, and how that was found.

    Clips with equal content and cut form a group, which its first clip stands for. The relation is stored between
    groups, so that a file that occurs ten thousand times does not make fifty million pairs.
    """

    def __init__(self, measures: Mapping[Clip, ClipMeasures]) -> None:
        first: dict[tuple[str, float, float], Clip] = {}
        self._group: dict[Clip, Clip] = {}
        for clip, measured in measures.items():
            is_known = bool(measured.content) and not measured.problems
            # Codes are those of the cut already.
            cut = (measured.content, 0.0 if measured.codes else clip.offset, measured.seconds)
            self._group[clip] = first.setdefault(cut, clip) if is_known else clip
        self._known: dict[Clip, dict[Clip, str]] = defaultdict(dict)
        self._parts: set[Pair] = set()

    def groups(self) -> list[Clip]:
        """Return the first clip of each group."""
        return list(dict.fromkeys(self._group.values()))

    def group(self, clip: Clip) -> Clip:
        """Return the first clip of the group that a clip belongs to."""
        return self._group[clip]

    def add(self, one: Clip, other: Clip, how: str, is_part: bool = False) -> None:
        """Store that the clips of two groups hold the same speech.

        Args:
            how: how that was found.
            is_part: whether one is known to be a part of the other.
        """
        if is_part:
            self._parts |= {(self._group[one], self._group[other]), (self._group[other], self._group[one])}
        self._known[self._group[one]].setdefault(self._group[other], how)
        self._known[self._group[other]].setdefault(self._group[one], how)

    def alike(self, clip: Clip) -> dict[Clip, str]:
        """Return the clip's own group and all groups with the same speech, each with how that was found."""
        own = self._group[clip]
        equal = "the same codes" if isinstance(own, CodedClip) else "a file with the same content"
        return {own: f"the same clip, or {equal}", **self._known.get(own, {})}

    def is_part(self, one: Clip, other: Clip) -> bool:
        """Return whether one of two clips is known to be a part of the other."""
        return (self._group[one], self._group[other]) in self._parts

    def how(self, one: Clip, other: Clip) -> str | None:
        """Return how two clips were found to hold the same speech; None if they do not."""
        if one == other:
            return "the same clip"
        if self._group[one] == self._group[other]:
            return "the same codes" if isinstance(one, CodedClip) else "a file with the same content"
        return self._known.get(self._group[one], {}).get(self._group[other])


def find_same_clips(measures: Mapping[Clip, ClipMeasures], samples: Sequence[Uses], workers: int) -> SameClips:
    """Compare clips by their content and, if their landmarks agree, by their waveforms.

    Args:
        measures: clip -> its measures, for every clip.
        samples: the clips of each sample, each with its side and whether it is a target.
    """
    same = SameClips(measures)
    clips = [clip for clip in same.groups() if not measures[clip].problems]
    by_content = defaultdict(list)
    for clip in clips:
        by_content[measures[clip].content].append(clip)
    for cuts in by_content.values():
        for one, other, seconds in overlapping([(clip, clip.offset, measures[clip].seconds) for clip in cuts]):
            same.add(one, other, f"cuts of one file, which share {seconds:.1f} s")
    wanted = _WantedPairs(samples, same)
    found = candidate_pairs([measures[clip].landmarks for clip in clips], AMONG_ALL)
    pairs = {(clips[i], clips[j]) for i, j, _ in found if wanted(clips[i], clips[j])}
    for one, other in wanted.of_one_sample():
        is_known = (one, other) in pairs or (other, one) in pairs
        if not is_known and share_landmarks(measures[one].landmarks, measures[other].landmarks) >= IN_ONE_SAMPLE:
            pairs.add((one, other))
    pairs = [pair for pair in pairs if measures[pair[0]].content != measures[pair[1]].content]
    pairs.sort(key=lambda pair: (pair[0].name, pair[1].name))
    shares = map_in_processes(compare, pairs, workers, "comparing clips that sound alike", "pair") if pairs else []
    for (one, other), share in zip(pairs, shares, strict=True):
        if share >= SAME_SPEECH_SHARE:
            same.add(one, other, f"the same recording ({100 * share:.0f} % of the speech of one of them)")
    return same


class _WantedPairs:
    """Selects the pairs of clips that must not be the same: in one sample, on two sides, and any two targets."""

    def __init__(self, samples: Iterable[Uses], same: SameClips) -> None:
        self._sides: dict[Clip, set[str]] = defaultdict(set)
        self._references: dict[Clip, list[Clip]] = {}
        for uses in samples:
            references = [same.group(clip) for clip, _, is_target in uses if not is_target]
            for clip, side, is_target in uses:
                self._sides[same.group(clip)].add(side)
                if is_target:
                    self._references.setdefault(same.group(clip), []).extend(references)

    def of_one_sample(self) -> Iterable[Pair]:
        """Yield each target with each of its references."""
        for target, references in self._references.items():
            yield from ((target, reference) for reference in dict.fromkeys(references) if reference != target)

    def __call__(self, one: Clip, other: Clip) -> bool:
        """Return whether two groups are such a pair."""
        if one in self._references and other in self._references:
            return True
        if len(self._sides[one] | self._sides[other]) > 1:
            return True
        return other in self._references.get(one, ()) or one in self._references.get(other, ())


def compare(pair: Pair) -> float:
    """Return the share of the speech of two clips that is the same recording, as ``shared_share`` computes it."""
    (one, one_rate), (other, other_rate) = (read_samples(clip) for clip in pair)
    return shared_share(one.mean(axis=1), one_rate, other.mean(axis=1), other_rate)


def overlapping(cuts: Sequence[tuple[Clip, float, float]]) -> Iterable[tuple[Clip, Clip, float]]:
    """Yield pairs of cuts of one recording that share most of the shorter cut, with the seconds that they share.

    Args:
        cuts: (clip, start in the recording, length), in seconds.
    """
    ordered = sorted(cuts, key=lambda cut: cut[1])
    for i, (one, start, length) in enumerate(ordered):
        end = start + length
        for other, other_start, other_length in ordered[i + 1 :]:
            if other_start >= end:
                break
            shared = min(end, other_start + other_length) - other_start
            if shared >= SAME_SPEECH_SHARE * min(length, other_length):
                yield one, other, shared
