"""Finds the reasons to drop samples: each rule is applied to the measures and findings that the check has made."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from boson_multimodal.audio_processing.sound_files import Clip
from voice_cloning.data_check.check import Found
from voice_cloning.data_check.clip_measures import ClipMeasures
from voice_cloning.data_check.corpus_rules import (
    RateBand,
    check_duplicates,
    check_sides,
    implausible_rates,
    rate_band,
)
from voice_cloning.data_check.filter_rules import CONFLICTS, DUPLICATES, RULES, TRANSCRIPT, VOICE, Bounds
from voice_cloning.data_check.findings import Findings
from voice_cloning.data_check.sample_rules import Measures
from voice_cloning.data_check.samples import CheckedSample, UsedClip
from voice_cloning.evaluation.word_errors import text_errors

TARGET, REFERENCE = "target", "reference"
NORMALISATION = "scoring"
"""Texts are compared in the form for scoring: digits as words, no diacritics."""


@dataclass(frozen=True)
class Fault:
    """A reason to drop a sample.

    Attributes:
        rule: the name of the rule.
        kind: the kind of the check's finding, or the bound that is broken (a field of ``Bounds``).
        detail: the reason in words.
        clip: ``target`` or ``reference``; empty if it is the record or both.
        audio: the file of the clip.
        text: the text of the clip.
        value: what was measured; None if it is no number.
        bound: the bound that ``value`` breaks.
    """

    rule: str
    kind: str
    detail: str
    clip: str = ""
    audio: str = ""
    text: str = ""
    value: float | None = None
    bound: float | None = None


def find_faults(
    samples: Sequence[CheckedSample],
    measures: Measures,
    found: Found,
    rules: Sequence[str],
    bounds: Bounds,
    recognised: Mapping[Clip, str],
) -> dict[str, list[Fault]]:
    """Return sample id -> its faults, in the order of ``RULES``, for the samples that have any.

    Args:
        rules: names of the rules that apply.
        recognised: clip -> what a recogniser heard; read by the rule ``transcript``.
    """
    faults: dict[str, list[Fault]] = {sample.sample_id: [] for sample in samples}

    def take(findings: Findings, are_between_samples: bool) -> None:
        for rule in rules:
            for kind in RULES[rule].kinds if RULES[rule].is_between_samples == are_between_samples else ():
                for sample_id, detail in findings.found[kind].items():
                    value = findings.values[kind].get(sample_id, (None, None))
                    faults[sample_id] += _of_finding(by_id[sample_id], rule, kind, detail, measures, value)

    by_id = {sample.sample_id: sample for sample in samples}
    take(found.findings, False)
    for sample in samples:
        for used in sample.clips:
            if not measures[used.clip].problems.keys() - {"cancelled"}:  # else its measures are not those of a clip
                faults[sample.sample_id] += _of_clip(sample, used, measures[used.clip], rules, bounds)
        if TRANSCRIPT in rules:
            faults[sample.sample_id] += _of_transcripts(sample, recognised, bounds)
    if "speech_rate" in rules:
        for fault_of, fault in _of_rates(samples, measures, found, bounds):
            faults[fault_of].append(fault)
    for compare in (check_duplicates, check_sides):
        between = Findings()
        compare([sample for sample in samples if not faults[sample.sample_id]], found.same, between)
        take(between, True)
    order = list(RULES)
    return {i: sorted(own, key=lambda fault: order.index(fault.rule)) for i, own in faults.items() if own}


def _of_rates(
    samples: Sequence[CheckedSample], measures: Measures, found: Found, bounds: Bounds
) -> Iterator[tuple[str, Fault]]:
    """Yield the faults of rates of speech, each with the id of its sample."""
    for path, band in rate_bands(samples, found, bounds).items():
        least, most = band.bounds
        kind = "rate_deviations" if band.is_own else "letters_per_second"
        own = [rate for rate in found.rates if rate.sample.path == path]
        for rate, detail in implausible_rates(own, measures, band):
            value = rate.letters_per_second
            bound = least if value < least else most
            yield rate.sample.sample_id, _fault(rate.sample, rate.used, "speech_rate", kind, detail, value, bound)


def rate_bands(samples: Sequence[CheckedSample], found: Found, bounds: Bounds) -> dict[Path, RateBand]:
    """Return the band of speech rates of each file."""
    return {
        path: rate_band(
            [rate for rate in found.rates if rate.sample.path == path],
            bounds.rate_deviations,
            bounds.letters_per_second,
        )
        for path in dict.fromkeys(sample.path for sample in samples)
    }


def clips_with_texts(sample: CheckedSample) -> Iterator[tuple[UsedClip, str]]:
    """Yield the target and the reference of a sample, each if it is a single clip with a text."""
    for clips, text in ((sample.targets, sample.target_text), (sample.references, sample.reference_text)):
        if len(clips) == 1 and text.strip():
            yield clips[0], text


def _of_clip(
    sample: CheckedSample, used: UsedClip, m: ClipMeasures, rules: Sequence[str], bounds: Bounds
) -> Iterator[Fault]:
    """Yield the faults that the measures of a clip show."""

    def broken(rule: str, kind: str, value: float, detail: str, least: float | None = None, most: float | None = None):
        is_low, is_high = least is not None and value < least, most is not None and value > most
        if rule in rules and (is_low or is_high):
            yield _fault(sample, used, rule, kind, f"{used.where}: {detail}", value, least if is_low else most)

    kind = "target_seconds" if used.is_target else "reference_seconds"
    shortest, longest = getattr(bounds, kind)
    yield from broken("length", kind, m.seconds, f"{m.seconds:.2f} s", shortest, longest)
    silent = max(m.silence_start, m.silence_end)
    told = f"{m.silence_start:.2f} s of silence before and {m.silence_end:.2f} s after the speech"
    yield from broken("silence", "max_end_silence", silent, told, most=bounds.max_end_silence)
    if m.is_silent:
        yield from broken("silence", "max_silence_share", 1.0, "silent", most=bounds.max_silence_share)
        return  # a silent clip has no noise, band and level of speech
    told = f"silence is {100 * m.silence_share:.0f} % of it"
    yield from broken("silence", "max_silence_share", m.silence_share, told, most=bounds.max_silence_share)
    told = f"loud parts at {m.active_dbfs:.1f} dBFS, noise floor at {m.floor_dbfs:.1f} dBFS"
    yield from broken("snr", "min_snr", m.snr_db, told, least=bounds.min_snr)
    told = f"{m.sampling_rate} Hz, with energy up to {m.band_hz:.0f} Hz"
    yield from broken("bandwidth", "min_bandwidth", m.band_hz, told, least=bounds.min_bandwidth)
    told = f"{100 * m.clipped_share:.3g} % of its samples are clipped"
    yield from broken("clipping", "max_clipped_share", m.clipped_share, told, most=bounds.max_clipped_share)
    told = f"loud parts at {m.active_dbfs:.1f} dBFS"
    yield from broken("level", "min_level", m.active_dbfs, told, least=bounds.min_level)


def _of_transcripts(sample: CheckedSample, recognised: Mapping[Clip, str], bounds: Bounds) -> Iterator[Fault]:
    for used, text in clips_with_texts(sample):
        heard = recognised.get(used.clip)
        if heard is None:
            continue  # it cannot be read
        errors = text_errors(text, heard, NORMALISATION)
        cer = errors.character_errors / max(1, errors.characters)
        if cer > bounds.max_cer:
            detail = f"{used.where}: CER {cer:.2f}; the recogniser heard {heard!r}"
            yield _fault(sample, used, TRANSCRIPT, "max_cer", detail, cer, bounds.max_cer)


def _of_finding(
    sample: CheckedSample,
    rule: str,
    kind: str,
    detail: str,
    measures: Measures,
    value: tuple[float | None, float | None],
) -> list[Fault]:
    """Return the faults for a finding of the check: one for each clip that cannot be used, else one."""
    if rule == VOICE:
        return [_fault(sample, _named(sample.references, detail), rule, kind, detail, *value)]
    problem = kind.removesuffix("_audio")
    wrong = [(used, m.problems[problem]) for used in sample.clips if problem in (m := measures[used.clip]).problems]
    if wrong:
        return [_fault(sample, used, rule, kind, f"{used.where}: {reason}") for used, reason in wrong]
    if rule in (DUPLICATES, CONFLICTS) and sample.targets:
        return [_fault(sample, sample.targets[0], rule, kind, detail)]
    return [Fault(rule, kind, detail, text=sample.target_text)]


def _named(clips: Sequence[UsedClip], detail: str) -> UsedClip:
    """Return the clip whose field a detail begins with."""
    return next((used for used in clips if detail.startswith(f"{used.where}:")), clips[0])


def _fault(
    sample: CheckedSample,
    used: UsedClip,
    rule: str,
    kind: str,
    detail: str,
    value: float | None = None,
    bound: float | None = None,
) -> Fault:
    source = used.clip.source
    return Fault(
        rule,
        kind,
        detail,
        clip=TARGET if used.is_target else REFERENCE,
        audio=str(source) if isinstance(source, Path) else "",
        text=sample.target_text if used.is_target else sample.reference_text,
        value=value,
        bound=bound,
    )
