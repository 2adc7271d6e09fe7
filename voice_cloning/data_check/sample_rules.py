"""Rules for a single sample: its record, its clips, its texts."""

from collections.abc import Mapping

from arabic_text.normalise import find_text_issues
from boson_multimodal.audio_processing.clips import frames_of
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.audio_processing.sound_levels import SILENT_DBFS
from boson_multimodal.constants import CODEC_SAMPLE_RATE, FRAMES_PER_SECOND
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of
from voice_cloning.corpora.pairing import REFERENCE_SECONDS
from voice_cloning.data_check.clip_measures import CODE_PROBLEMS, ClipMeasures
from voice_cloning.data_check.findings import Findings
from voice_cloning.data_check.samples import CheckedSample, UsedClip

CODEBOOKS = 8
TARGET_SECONDS = (0.5, 30.0)
CLIPPED_SHARE = 1e-4
"""About two or three samples a second."""
SILENCE_AT_AN_END_SECONDS = 0.7
MOST_SILENCE = 0.5
LEAST_ACTIVE_DBFS = -40.0
LARGEST_DC = 0.01
ISSUES_SHOWN = 5

Measures = Mapping[Clip, ClipMeasures]


def check_sample(sample: CheckedSample, measures: Measures, max_positions: int, findings: Findings) -> None:
    """Add the findings on a single sample to ``findings``."""
    for kind, problems in sample.problems.items():
        findings.add(kind, sample.sample_id, "; ".join(problems))
    for used in sample.clips:
        _check_clip(sample, used, measures[used.clip], findings)
    for detail in sample.mismatches:
        findings.add("transcript_mismatch", sample.sample_id, detail)
    for text in (sample.target_text, sample.reference_text):
        for kind, pieces in find_text_issues(text).items():
            shown = ", ".join(ascii(p) if kind in INVISIBLE else p for p in pieces[:ISSUES_SHOWN])
            findings.add(kind, sample.sample_id, f"{shown} in {text!r}")
    if sample.targets and not sample.references:
        findings.add("no_reference", sample.sample_id, "no clip outside the trained turns")
    positions = positions_of(sample, measures)
    if positions > max_positions:
        findings.add("over_limit", sample.sample_id, f"{positions} positions; the limit is {max_positions}")


INVISIBLE = ("bidi_controls", "zero_width", "unknown_characters")
"""Kinds of text issues whose pieces are shown as escape sequences."""


def positions_of(sample: CheckedSample, measures: Measures) -> int:
    """Return the number of positions of a sample's sequence."""
    found = [measures[used.clip] for used in sample.clips]
    return sample.tokens + sum(columns_of(frames(m), codebooks(m), True) for m in found if m.seconds)


def frames(measured: ClipMeasures) -> int:
    """Return the number of code frames of a clip."""
    if measured.codes:
        return measured.codes.frames
    samples = round(measured.seconds * measured.sampling_rate)
    return frames_of(samples, measured.sampling_rate, FRAMES_PER_SECOND)


def codebooks(measured: ClipMeasures) -> int:
    """Return the number of codebooks of a clip."""
    return measured.codes.codebooks if measured.codes else CODEBOOKS


def _check_clip(sample: CheckedSample, used: UsedClip, m: ClipMeasures, findings: Findings) -> None:
    def add(kind: str, detail: str) -> None:
        findings.add(kind, sample.sample_id, f"{used.where}: {detail}")

    for kind, problem in m.problems.items():
        add(f"{kind}_codes" if kind in CODE_PROBLEMS else f"{kind}_audio", problem)
    if m.problems.keys() - {"cancelled"}:
        return  # other defects of the clip may be consequences of these
    shortest, longest = TARGET_SECONDS if used.is_target else REFERENCE_SECONDS
    if not shortest <= m.seconds <= longest:
        kind = "target_length" if used.is_target else "reference_length"
        detail = f"{m.seconds:.2f} s; {shortest:g} to {longest:g} s is recommended"
        if frames(m) < codebooks(m):
            detail += f"; {frames(m)} frames: with the delay pattern, no column has a code of every codebook"
        add(kind, detail)
    if not m.is_heard:
        return
    if m.sampling_rate < CODEC_SAMPLE_RATE:
        add("low_native_rate", f"{m.sampling_rate} Hz; the codec works at {CODEC_SAMPLE_RATE} Hz")
    elif m.bandwidth_hz is not None:
        add("low_native_rate", f"{m.sampling_rate} Hz, but its energy stops near {m.bandwidth_hz / 1000:.1f} kHz")
    if m.clipped_share > CLIPPED_SHARE:
        add("clipping", f"{100 * m.clipped_share:.2g} % of the samples are clipped")
    if max(m.silence_start, m.silence_end) > SILENCE_AT_AN_END_SECONDS:
        add("silence_at_ends", f"{m.silence_start:.1f} s before and {m.silence_end:.1f} s after the speech")
    if m.is_silent:
        add("mostly_silence", f"silent: all of its {m.seconds:.1f} s are below {SILENT_DBFS:g} dBFS")
    elif m.silence_share > MOST_SILENCE:
        add("mostly_silence", f"{100 * m.silence_share:.0f} % of {m.seconds:.1f} s")
    if m.active_dbfs < LEAST_ACTIVE_DBFS:
        add("low_level", f"its loud parts are at {m.active_dbfs:.0f} dBFS; -25 to -10 dBFS is usual")
    if abs(m.dc) > LARGEST_DC:
        add("dc_offset", f"its mean is {m.dc:+.3f} of full scale")
