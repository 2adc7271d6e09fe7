"""Chooses a reference for each target, and the speakers or utterances for evaluation.

All choices depend only on the seed and the utterances' ids, not on the order in which files were read.
"""

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from boson_multimodal.errors import InputError
from voice_cloning.corpora.utterances import Utterance

REFERENCE_SECONDS = (3.0, 10.0)
"""Preferred lengths of references: long enough to show the voice, without more positions than that needs."""
FEWEST_OF_A_SPEAKER = 2
"""Number of clips that a speaker needs on a side: a target and its reference."""


@dataclass
class Pairs:
    """Targets with their references.

    Attributes:
        pairs: (target, reference, number of the reference from 0).
        unpaired: utterances for which their speaker has no reference, because all other texts are the same.
        short: number of targets with fewer references than requested.
    """

    pairs: list[tuple[Utterance, Utterance, int]] = field(default_factory=list)
    unpaired: list[Utterance] = field(default_factory=list)
    short: int = 0


def by_speaker(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Return the utterances of each speaker; speakers and utterances are sorted by name."""
    speakers: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in sorted(utterances, key=lambda u: (u.speaker, u.utterance_id)):
        speakers[utterance.speaker].append(utterance)
    return dict(speakers)


def split(
    utterances: Sequence[Utterance], split_by: str, eval_share: float, seed: int
) -> tuple[list[Utterance], list[Utterance]]:
    """Split utterances into (train, eval); by ``speaker`` no speaker is on both sides, by ``utterance`` one may be.

    Raises:
        InputError: if there are too few speakers or utterances for two sides.
    """
    if eval_share == 0:
        return list(utterances), []
    speakers = by_speaker(utterances)
    order = list(speakers)
    random.Random(f"split {seed}").shuffle(order)
    wanted = eval_share * len(utterances)
    if split_by == "speaker":
        chosen = _held_speakers(speakers, order, wanted)
    else:
        chosen = _held_utterances(speakers, order, wanted, eval_share, seed)
    train = [u for u in utterances if u.utterance_id not in chosen]
    return train, [u for u in utterances if u.utterance_id in chosen]


def _held_speakers(speakers: dict[str, list[Utterance]], order: list[str], wanted: float) -> set[str]:
    """Return the ids of whole speakers; in turn, each is taken if that brings their number closer to ``wanted``."""
    if not order:  # no speaker has two clips; the caller says it
        return set()
    if len(order) < 2:
        raise InputError(
            f"--split_by speaker: only {len(order)} speaker has enough clips, but each side needs one; give "
            "--split_by utterance, or --eval_share 0 for no evaluation file"
        )
    chosen: list[str] = []
    total = 0
    for speaker in order:
        grown = total + len(speakers[speaker])
        if abs(wanted - grown) < abs(wanted - total) and len(chosen) < len(order) - 1:
            chosen.append(speaker)
            total = grown
    chosen = chosen or [min(order, key=lambda speaker: len(speakers[speaker]))]
    return {u.utterance_id for speaker in chosen for u in speakers[speaker]}


def _held_utterances(
    speakers: dict[str, list[Utterance]], order: list[str], wanted: float, share: float, seed: int
) -> set[str]:
    """Return the ids of utterances of some speakers, at least two each: a target needs a reference on its own side."""
    chosen: set[str] = set()
    for speaker in order:
        own = speakers[speaker]
        count = max(FEWEST_OF_A_SPEAKER, round(share * len(own)))
        if len(chosen) < max(wanted, 1) and len(own) - count >= FEWEST_OF_A_SPEAKER:
            chosen |= {u.utterance_id for u in random.Random(f"utterances {seed} {speaker}").sample(own, count)}
    if not chosen:
        raise InputError(
            "--split_by utterance: no speaker has 4 clips, but each side needs two; give --split_by speaker, or "
            "--eval_share 0 for no evaluation file"
        )
    return chosen


def pair(utterances: Sequence[Utterance], references_per_target: int, seed: int) -> Pairs:
    """Give each utterance references: utterances of its speaker with another text and without shared audio.

    References of ``REFERENCE_SECONDS`` are preferred, then those with the closest lengths. All are used about equally
    often.
    """
    found = Pairs()
    for speaker, own in by_speaker(utterances).items():
        if len({utterance.text for utterance in own}) == 1:
            found.unpaired += own
            continue
        shuffled = list(own)
        random.Random(f"references {seed} {speaker}").shuffle(shuffled)
        shuffled.sort(key=_seconds_off)
        preferred = bisect_left(shuffled, 1e-9, key=_seconds_off)
        for target in own:
            references = _references(target, shuffled, preferred, references_per_target, seed)
            found.pairs += [(target, reference, number) for number, reference in enumerate(references)]
            if not references:
                found.unpaired.append(target)
            elif len(references) < references_per_target:
                found.short += 1
    return found


def _references(
    target: Utterance, candidates: list[Utterance], preferred: int, wanted: int, seed: int
) -> list[Utterance]:
    """Return the first ``wanted`` candidates that fit; the target's id decides at which preferred one to start."""
    start = random.Random(f"{seed} {target.utterance_id}").randrange(max(1, preferred))
    found: list[Utterance] = []
    for i in range(len(candidates)):
        candidate = candidates[(start + i) % preferred if i < preferred else i]
        if candidate.text != target.text and not _overlap(candidate, target):
            found.append(candidate)
            if len(found) == wanted:
                break
    return found


def _seconds_off(utterance: Utterance) -> float:
    """Return by how many seconds an utterance is shorter or longer than ``REFERENCE_SECONDS``."""
    shortest, longest = REFERENCE_SECONDS
    return max(0.0, shortest - utterance.seconds, utterance.seconds - longest)


def _overlap(one: Utterance, other: Utterance) -> bool:
    """Return whether two utterances share a part of one recording."""
    first, second = one.offset or 0.0, other.offset or 0.0
    return one.audio == other.audio and first < second + other.seconds and second < first + one.seconds
