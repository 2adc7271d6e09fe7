"""Which clips of a data set hold the same speech: by file, by content, by audio."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from boson_multimodal.audio_processing.sound_files import Clip, read_samples
from tools.prepare_data.clip_measures import ClipMeasures
from tools.prepare_data.same_speech import SAME_SPEECH_SHARE, candidate_pairs, shared_share
from tools.prepare_data.worker_pool import map_in_processes

Pair = tuple[Clip, Clip]


class SameClips:
    """A symmetric relation among clips, each pair with how it is known."""

    def __init__(self) -> None:
        self._known: dict[Clip, dict[Clip, str]] = defaultdict(dict)

    def add(self, one: Clip, other: Clip, how: str) -> None:
        """Note that two clips hold the same speech."""
        self._known[one].setdefault(other, how)
        self._known[other].setdefault(one, how)

    def how(self, one: Clip, other: Clip) -> str | None:
        """How it is known that two clips are the same; None if they are not."""
        return "the same clip" if one == other else self.of(one).get(other)

    def of(self, clip: Clip) -> dict[Clip, str]:
        """All other clips that are the same as this one."""
        return self._known.get(clip, {})


def find_same_clips(measures: dict[Clip, ClipMeasures], wanted: "WantedPairs", workers: int) -> SameClips:
    """Compare clips by content, and those whose landmarks agree by their waveforms.

    Args:
        measures: of every clip.
        wanted: which pairs matter; the others are not compared.
    """
    same = SameClips()
    by_content = defaultdict(list)
    for clip, measured in measures.items():
        if not measured.problems:
            by_content[measured.content].append(clip)
    for clips in by_content.values():
        for one, other in _overlapping(clips, measures):
            how = "the same file" if one.source == other.source else "a file of the same content"
            same.add(one, other, how)
    clips = [clip for clip, measured in measures.items() if not measured.problems]
    found = candidate_pairs([measures[clip].landmarks for clip in clips])
    pairs = [(clips[i], clips[j]) for i, j in found if wanted(clips[i], clips[j])]
    pairs = [(a, b) for a, b in pairs if measures[a].content != measures[b].content]
    shares = map_in_processes(compare, pairs, workers, "comparing clips that sound alike", "pair") if pairs else []
    for (one, other), share in zip(pairs, shares, strict=True):
        if share >= SAME_SPEECH_SHARE:
            same.add(one, other, f"the same recording ({100 * share:.0f} % of the shorter one's speech)")
    return same


class WantedPairs:
    """Pairs of clips that must not be the same: of one sample, of two sides, and any two targets.

    Args:
        samples: the clips of each sample, each with its side and whether it is a target.
    """

    def __init__(self, samples: Iterable[Sequence[tuple[Clip, str, bool]]]) -> None:
        self._sides: dict[Clip, set[str]] = defaultdict(set)
        self._targets: set[Clip] = set()
        self._together: set[frozenset[Clip]] = set()
        for uses in samples:
            for clip, side, is_target in uses:
                self._sides[clip].add(side)
                if is_target:
                    self._targets.add(clip)
                    self._together |= {frozenset((clip, other)) for other, _, other_target in uses if not other_target}

    def __call__(self, one: Clip, other: Clip) -> bool:
        """Whether a pair matters."""
        if one in self._targets and other in self._targets:
            return True
        return len(self._sides[one] | self._sides[other]) > 1 or frozenset((one, other)) in self._together


def compare(pair: Pair) -> float:
    """Share of the same recording in two clips: see ``shared_share``."""
    (one, one_rate), (other, other_rate) = (read_samples(clip) for clip in pair)
    return shared_share(one.mean(axis=1), one_rate, other.mean(axis=1), other_rate)


def _overlapping(clips: Sequence[Clip], measures: dict[Clip, ClipMeasures]) -> Iterable[Pair]:
    """Pairs of cuts of one content that share most of the shorter one."""
    cuts = sorted(clips, key=lambda clip: clip.offset)
    for i, one in enumerate(cuts):
        end = one.offset + measures[one].seconds
        for other in cuts[i + 1 :]:
            if other.offset >= end:
                break
            shared = min(end, other.offset + measures[other].seconds) - other.offset
            if shared >= SAME_SPEECH_SHARE * min(measures[one].seconds, measures[other].seconds):
                yield one, other
