"""Rules for samples compared with each other: same clips, speakers and utterances on both sides, unfitting texts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from arabic_text.normalise import count_letters, diacritised_share, normalise_for_scoring
from boson_multimodal.audio_processing.sound_files import Clip
from voice_cloning.data_check.findings import Findings
from voice_cloning.data_check.same_clips import SameClips
from voice_cloning.data_check.sample_rules import Measures
from voice_cloning.data_check.samples import EVAL, TRAIN, CheckedSample, UsedClip

LETTERS_PER_SECOND = (2.5, 25.0)
"""Plausible rates of written Arabic without diacritics, from single words with pauses to faster than anybody reads."""
FEWEST_LETTERS = 10
"""A clip is not judged if it has fewer letters and would have fewer at the median rate."""
FEWEST_RATES = 10
"""With fewer clips, a file has no distribution of rates."""
RATE_DEVIATIONS = 4.0
LEAST_RATE_RATIO = 1.6
"""A rate within this ratio of the file's median is accepted, however narrow the distribution is."""
DIACRITISED, PLAIN = 0.6, 0.3
"""Shares of words with vowel marks. From the first on, a text is diacritised; up to the second, it is plain (plain
texts often have tanween and shadda); between them, the text itself is mixed."""
MIXED_WORDS = 5
"""In a shorter text, one marked word is not enough to call the text mixed."""
MOST_OF_THE_HOURS = 0.5


@dataclass(frozen=True)
class SpeechRate:
    """The rate at which a text is spoken if its clip says it.

    Attributes:
        used: a target or reference of ``sample``.
        letters_per_second: letters of the text per second of speech in the clip.
    """

    sample: CheckedSample
    used: UsedClip
    letters_per_second: float


def speech_rates(samples: Sequence[CheckedSample], measures: Measures) -> list[SpeechRate]:
    """Return the rate of each target and each reference that is a single clip with a text."""
    rates = []
    for sample in samples:
        for clips, text in ((sample.targets, sample.target_text), (sample.references, sample.reference_text)):
            letters = count_letters(text) if len(clips) == 1 and not measures[clips[0].clip].problems else 0
            if letters:
                seconds = max(0.02, measures[clips[0].clip].speech_seconds)
                rates.append(SpeechRate(sample, clips[0], letters / seconds))
    return rates


def check_corpus(
    samples: Sequence[CheckedSample],
    measures: Measures,
    rates: Sequence[SpeechRate],
    same: SameClips,
    findings: Findings,
) -> None:
    """Add the findings from comparisons of samples to ``findings``."""
    for sample in samples:
        _check_reference(sample, same, findings)
    check_sides(samples, same, findings)
    check_duplicates(samples, same, findings)
    for path in dict.fromkeys(sample.path for sample in samples):
        own = [rate for rate in rates if rate.sample.path == path]
        for found, detail in implausible_rates(own, measures, rate_band(own)):
            findings.add("implausible_speech_rate", found.sample.sample_id, detail)
    _check_diacritisation(samples, findings)
    _check_speakers(samples, measures, findings)


def hours_of_speakers(samples: Sequence[CheckedSample], measures: Measures) -> dict[str, tuple[float, int]]:
    """Return speaker -> (hours, number) of their different target clips, the speaker with most hours first."""
    clips = {used.clip: s.speaker for s in samples for used in s.targets if s.speaker is not None}
    seconds: Counter[str] = Counter()
    for clip, speaker in clips.items():
        seconds[speaker] += measures[clip].seconds
    counts = Counter(clips.values())
    return {speaker: (total / 3600, counts[speaker]) for speaker, total in seconds.most_common()}


def _check_reference(sample: CheckedSample, same: SameClips, findings: Findings) -> None:
    for target in sample.targets:
        for reference in sample.references:
            how = same.how(reference.clip, target.clip)
            if how:
                findings.add("reference_equals_target", sample.sample_id, f"{reference.where}, {target.where}: {how}")


def check_sides(samples: Sequence[CheckedSample], same: SameClips, findings: Findings) -> None:
    """Find speakers and clips of evaluation samples that training samples have too."""
    train = [sample for sample in samples if sample.side == TRAIN]
    evaluation = [sample for sample in samples if sample.side == EVAL]
    speakers = {sample.speaker: sample.sample_id for sample in reversed(train) if sample.speaker is not None}
    clips = {same.group(used.clip): sample.sample_id for sample in reversed(train) for used in sample.clips}
    for sample in evaluation:
        if sample.speaker in speakers:
            detail = f"speaker {sample.speaker!r} is also in training sample {speakers[sample.speaker]}"
            findings.add("speaker_in_train_and_eval", sample.sample_id, detail)
        for used in sample.clips:
            for group, how in same.alike(used.clip).items():
                if group in clips:
                    detail = f"{used.where}: also in training sample {clips[group]}: {how}"
                    findings.add("utterance_in_train_and_eval", sample.sample_id, detail)


@dataclass
class _Seen:
    """The first occurrence of a target, and all references that the target has had."""

    clip: Clip
    sample: CheckedSample
    references: set[Clip]


def check_duplicates(samples: Sequence[CheckedSample], same: SameClips, findings: Findings) -> None:
    """Find targets that are repeated on one side: with another text, or with the same text and no other reference."""
    for side in (TRAIN, EVAL):
        _check_duplicates_of_side([sample for sample in samples if sample.side == side], same, findings)


def _check_duplicates_of_side(samples: Sequence[CheckedSample], same: SameClips, findings: Findings) -> None:
    seen: dict[Clip, _Seen] = {}
    for sample in samples:
        references = {group for used in sample.references for group in same.alike(used.clip)}
        for target in sample.targets:
            for group, how in same.alike(target.clip).items():
                if group in seen:
                    is_part = same.is_part(target.clip, group)
                    _compare(sample, target.clip, references, seen[group], how, is_part, findings)
        for target in sample.targets:
            first = seen.setdefault(same.group(target.clip), _Seen(target.clip, sample, set()))
            first.references |= references


def _compare(
    sample: CheckedSample,
    target: Clip,
    references: set[Clip],
    first: _Seen,
    how: str,
    is_part: bool,
    findings: Findings,
) -> None:
    """Compare a sample with the first one of its target; one target clip may have several references.

    If one clip is a part of the other, its text may be a part too.
    """
    texts = [f" {normalise_for_scoring(text)} " for text in (sample.target_text, first.sample.target_text)]
    if texts[0] != texts[1] and not (is_part and (texts[0] in texts[1] or texts[1] in texts[0])):
        for one, two in ((sample, first.sample), (first.sample, sample)):
            detail = f"{one.target_text!r}; {two.sample_id} has {two.target_text!r} for {how}"
            findings.add("conflicting_transcripts", one.sample_id, detail)
    elif target != first.clip or not references or references & first.references:
        detail = f"same target as {first.sample.sample_id}: {how}"
        findings.add("duplicate_samples", sample.sample_id, detail)


@dataclass(frozen=True)
class RateBand:
    """The rates of speech that are plausible in a file, in letters per second.

    Attributes:
        clips: number of clips with a rate.
        median: the median rate; 1 without any.
        ratio: a rate may be this many times above or below the median; infinite for fewer than ``FEWEST_RATES`` clips.
        least, most: plausible rates of any speech.
    """

    clips: int
    median: float
    ratio: float
    least: float
    most: float

    @property
    def is_own(self) -> bool:
        """Whether the file has a band of its own. Otherwise only ``least`` and ``most`` hold."""
        return self.ratio < np.inf

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest rate of the band."""
        return max(self.least, self.median / self.ratio), min(self.most, self.median * self.ratio)


def rate_band(
    rates: Sequence[SpeechRate],
    deviations: float = RATE_DEVIATIONS,
    plausible: tuple[float, float] = LETTERS_PER_SECOND,
) -> RateBand:
    """Return the band of the rates of a file: the median and so many standard deviations of the logarithm around it."""
    own = np.log(list({rate.used.clip: rate.letters_per_second for rate in rates}.values()) or [1.0])
    median, limit = float(np.median(own)), np.inf
    if len(own) >= FEWEST_RATES:
        deviation = 1.4826 * float(np.median(np.abs(own - median)))  # the standard deviation of a normal distribution
        limit = max(deviations * deviation, np.log(LEAST_RATE_RATIO))
    return RateBand(len(own) if rates else 0, float(np.exp(median)), float(np.exp(limit)), *plausible)


def implausible_rates(
    rates: Sequence[SpeechRate], measures: Measures, band: RateBand
) -> Iterator[tuple[SpeechRate, str]]:
    """Yield each rate of a file outside its band, with the reason. Clips with very few letters are not judged."""
    for found in rates:
        used, rate = found.used, found.letters_per_second
        if max(rate, band.median) * measures[used.clip].speech_seconds < FEWEST_LETTERS:
            continue
        detail = f"{used.where}: {rate:.1f} letters per second"
        if abs(np.log(rate / band.median)) > np.log(band.ratio):
            yield found, f"{detail}; the file's median is {band.median:.1f}"
        elif not band.least <= rate <= band.most:
            yield found, f"{detail}; speech has {band.least:g} to {band.most:g}"


def _check_diacritisation(samples: Sequence[CheckedSample], findings: Findings) -> None:
    """Find texts that are diacritised in part, and texts that differ in this from most others."""
    texts = {sample.sample_id: sample.target_text for sample in samples}
    shares = {sample_id: diacritised_share(text) for sample_id, text in texts.items()}
    known = {sample_id: share for sample_id, share in shares.items() if share is not None}
    full = [sample_id for sample_id, share in known.items() if share >= DIACRITISED]
    plain = [sample_id for sample_id, share in known.items() if share <= PLAIN]
    fewer, others = (full, plain) if len(full) <= len(plain) else (plain, full)
    for sample_id, share in known.items():
        if PLAIN < share < DIACRITISED and len(texts[sample_id].split()) >= MIXED_WORDS:
            findings.add("mixed_diacritisation", sample_id, f"{100 * share:.0f} % of its words have vowel marks")
    for sample_id in fewer:
        opposite = "plain" if fewer is full else "diacritised"
        detail = f"{100 * known[sample_id]:.0f} % of its words have vowel marks; {len(others)} texts are {opposite}"
        findings.add("mixed_diacritisation", sample_id, detail)


def _check_speakers(samples: Sequence[CheckedSample], measures: Measures, findings: Findings) -> None:
    train = [sample for sample in samples if sample.side == TRAIN]
    hours = hours_of_speakers(train, measures)
    total = sum(own for own, _ in hours.values())
    for speaker, (own, _) in hours.items():
        if total and own / total > MOST_OF_THE_HOURS:
            detail = f"speaker {speaker!r} has {100 * own / total:.0f} % of the training hours"
            for sample in train:
                if sample.speaker == speaker:
                    findings.add("dominant_speaker", sample.sample_id, detail)
    for sample in samples:
        if sample.speaker is None and not sample.problems:
            findings.add("no_speaker", sample.sample_id, "speaker: missing")
