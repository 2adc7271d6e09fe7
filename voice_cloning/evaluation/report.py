"""From judged clips to report.json: figures with intervals, differences to the base, groups, cost, scales."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from voice_cloning.evaluation.intervals import (
    Interval,
    mean_interval,
    median_interval,
    paired_mean_difference,
    paired_ratio_difference,
    paired_share_difference,
    quantile_interval,
    ratio_interval,
    share_interval,
)
from voice_cloning.evaluation.word_errors import TextErrors
from voice_cloning.training.spoken_figures import SpokenClip

LONGEST_SHORT, LONGEST_MIDDLE = 30, 80
"""Letters of the longest short and of the longest middle text: about 2.5 s and 7 s of speech."""
LENGTHS = {
    "short": f"up to {LONGEST_SHORT} letters",
    "middle": f"{LONGEST_SHORT + 1} to {LONGEST_MIDDLE} letters",
    "long": f"more than {LONGEST_MIDDLE} letters",
}
MEANS = ("sim_reference", "sim_recording", "mos")
OF_SCALES = ("characters_per_second", "silent_share", "wer_", "cer_", *MEANS)
"""Figures (or their beginnings) that the recordings of the set have too."""


@dataclass(frozen=True, kw_only=True)
class JudgedClip:
    """One clip with all that is known of it.

    Attributes:
        item, speaker, dialect, kind: of the sentence; all but the first may be unknown.
        seed: of the clip.
        audio: the path of the WAV in the folder of the evaluation; None if there are codes alone.
        ended: whether the model ended it by itself; None if that is not known.
        seconds, true_seconds: its length and that of the true recording, if there is one.
        measured: what can be measured without a model.
        has_codes: whether repeated frames of ``measured`` mean anything.
        recognised: the text that was heard; None without a recogniser.
        errors: by normalisation.
        alignment: by word, for normalisation ``scoring``.
        sim_reference, sim_recording: cosines of the voice to that of the reference and of the true recording.
        mos: mean opinion score as predicted.
        compute_seconds, peak_memory_gb: what it cost to make it; None for a finished WAV.
    """

    item: str
    speaker: str | None
    dialect: str | None
    kind: str | None
    seed: int
    audio: str | None
    ended: bool | None
    seconds: float
    true_seconds: float | None
    measured: SpokenClip
    has_codes: bool
    recognised: str | None = None
    errors: dict[str, TextErrors] = field(default_factory=dict)
    alignment: list[tuple[str, str, str]] | None = None
    sim_reference: float | None = None
    sim_recording: float | None = None
    mos: float | None = None
    compute_seconds: float | None = None
    peak_memory_gb: float | None = None

    @property
    def length_ratio(self) -> float | None:
        """Frames over frames of the true recording; None without one."""
        true = self.measured.true_frames
        return self.measured.frames / true if true else None

    @property
    def length(self) -> str:
        """The group by the number of letters (``LENGTHS``)."""
        letters = self.measured.characters
        return "short" if letters <= LONGEST_SHORT else "middle" if letters <= LONGEST_MIDDLE else "long"

    def record(self) -> dict[str, Any]:
        """Return the clip as report.json has it."""
        return {
            "seed": self.seed,
            "audio": self.audio,
            "ended": self.ended,
            "seconds": round(self.seconds, 3),
            "true_seconds": _rounded(self.true_seconds, 3),
            "length_ratio": _rounded(self.length_ratio, 4),
            "recognised": self.recognised,
            "errors": {name: asdict(errors) for name, errors in self.errors.items()},
            "alignment": None if self.alignment is None else [list(step) for step in self.alignment],
            **{name: _rounded(getattr(self, name), 4) for name in MEANS},
        }


def figures(clips: Sequence[JudgedClip]) -> dict[str, dict[str, Any]]:
    """Return each figure of a system that was measured, with its interval.

    Seeds of one sentence are averaged first where a figure is a mean or a ratio of sums, so that sentences are what is
    sampled. For quantiles, each clip counts.
    """
    found: dict[str, Interval] = {}
    if clips and all(clip.ended is not None for clip in clips):
        found["stop_rate"] = _stop_rate(clips)
    timed = [clip for clip in clips if clip.length_ratio is not None]
    if timed:
        several = len({clip.item for clip in timed}) < len(timed)
        groups = _speakers(timed) or ([clip.item for clip in timed] if several else None)
        ratios = [clip.length_ratio for clip in timed]
        found["length_ratio"] = median_interval(ratios, groups)
        found["length_ratio_p5"] = quantile_interval(ratios, 0.05, groups)
        found["length_ratio_p95"] = quantile_interval(ratios, 0.95, groups)
    for name, (part, whole, wanted) in RATIOS.items():
        _add_ratio(found, name, [clip for clip in clips if wanted(clip)], part, whole)
    for normalisation in dict.fromkeys(name for clip in clips for name in clip.errors):
        judged = [clip for clip in clips if normalisation in clip.errors]
        for name, part, whole in _error_counts(normalisation):
            _add_ratio(found, name, judged, part, whole)
    for name in MEANS:
        values = _by_item([clip for clip in clips if getattr(clip, name) is not None], lambda c, n=name: getattr(c, n))
        if values:
            found[name] = mean_interval(list(values.values()), _speakers_of(clips, values))
    return {name: asdict(interval) for name, interval in found.items()}


RATIOS: dict[str, tuple[Callable, Callable, Callable]] = {
    "repeated_share": (lambda c: c.measured.repeated_frames, lambda c: c.measured.frames, lambda c: c.has_codes),
    "silent_share": (
        lambda c: c.measured.silent_frames,
        lambda c: c.measured.frames,
        lambda c: c.measured.silent_frames is not None,
    ),
    "characters_per_second": (lambda c: c.measured.characters, lambda c: c.seconds, lambda c: c.seconds > 0),
}
"""Figure -> numerator and denominator of a clip, and whether the clip counts."""


def differences(base: Sequence[JudgedClip], other: Sequence[JudgedClip]) -> dict[str, dict[str, Any]]:
    """Return each figure of a system minus that of the base on the same sentences, with the interval of the pairs."""
    found: dict[str, Interval] = {}
    pairs = _paired(base, other)
    if pairs and all(clip.ended is not None for pair in pairs for clip in pair):
        found["stop_rate"] = _stop_rate_difference(pairs)
    both = {clip.item for clip in base} & {clip.item for clip in other}
    ours, theirs = ([clip for clip in clips if clip.item in both] for clips in (base, other))
    for normalisation in dict.fromkeys(name for clip in ours for name in clip.errors):
        for name, part, whole in _error_counts(normalisation):
            a, b, totals = (_by_item(clips, count) for clips, count in ((ours, part), (theirs, part), (ours, whole)))
            if sum(totals.values()) and a.keys() == b.keys():
                columns = [[values[item] for item in totals] for values in (a, b, totals)]
                found[name] = paired_ratio_difference(*columns, _speakers_of(ours, totals))
    for name in MEANS:
        a, b = (
            _by_item([clip for clip in clips if getattr(clip, name) is not None], lambda c, n=name: getattr(c, n))
            for clips in (ours, theirs)
        )
        shared = {item: a[item] for item in a if item in b}
        if shared:
            columns = [[values[item] for item in shared] for values in (a, b)]
            found[name] = paired_mean_difference(*columns, _speakers_of(ours, shared))
    return {name: asdict(interval) for name, interval in found.items()}


def _stop_rate(clips: Sequence[JudgedClip]) -> Interval:
    """Return the share of clips that ended. With several seeds, sentences are counted, each with its own share."""
    shares = _by_item(clips, lambda clip: float(clip.ended))
    if len(shares) == len(clips):
        return share_interval(sum(clip.ended for clip in clips), len(clips))
    return mean_interval(list(shares.values()), bounds=(0.0, 1.0))


def _stop_rate_difference(pairs: Sequence[tuple[JudgedClip, JudgedClip]]) -> Interval:
    base, other = ([pair[side] for pair in pairs] for side in (0, 1))
    a, b = (_by_item(clips, lambda clip: float(clip.ended)) for clips in (base, other))
    if len(b) == len(pairs):
        return paired_share_difference([clip.ended for clip in base], [clip.ended for clip in other])
    return paired_mean_difference(list(a.values()), list(b.values()))


def groups(clips: Sequence[JudgedClip]) -> dict[str, dict[str, Any]]:
    """Return the figures by speaker, dialect, kind and length. A clip whose group is not known is in none."""
    found: dict[str, dict[str, Any]] = {}
    for grouping in ("speaker", "dialect", "kind", "length"):
        values = dict.fromkeys(getattr(clip, grouping) for clip in clips)
        order = list(LENGTHS) if grouping == "length" else sorted(value for value in values if value is not None)
        found[grouping] = {
            value: figures([clip for clip in clips if getattr(clip, grouping) == value])
            for value in order
            if value in values
        }
    return found


def cost(clips: Sequence[JudgedClip]) -> dict[str, float]:
    """Return seconds of work per second of speech, and the most memory in use. Nothing for finished WAVs."""
    spent = [clip.compute_seconds for clip in clips if clip.compute_seconds is not None]
    seconds = sum(clip.seconds for clip in clips)
    if not spent or not seconds:
        return {}
    peak = max(clip.peak_memory_gb for clip in clips if clip.peak_memory_gb is not None)
    return {"real_time_factor": round(sum(spent) / seconds, 3), "peak_memory_gb": peak}


def scales(measurements: dict[str, Sequence[JudgedClip]]) -> dict[str, dict[str, Any]]:
    """Return figure -> name of a measurement -> interval, for clips of the set instead of a system."""
    found: dict[str, dict[str, Any]] = {}
    for name, clips in measurements.items():
        for figure, interval in figures(clips).items():
            if figure.startswith(OF_SCALES):
                found.setdefault(figure, {})[name] = interval
    return found


def table(report: dict[str, Any]) -> list[str]:
    """Return the lines of a table with one line for each system, and one for each scale that has one of its figures."""
    names = [name for name in TABLE if any(name in system["figures"] for system in report["systems"])]
    rows = [["", *(TABLE[name] for name in names)]]
    rows += [[s["name"], *(_cell(name, s["figures"].get(name)) for name in names)] for s in report["systems"]]
    for scale in dict.fromkeys(scale for found in report["scales"].values() for scale in found):
        cells = [_cell(name, report["scales"].get(name, {}).get(scale)) for name in names]
        if set(cells) != {"-"}:
            rows.append([f"({scale})", *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(names) + 1)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


TABLE = {
    "stop_rate": "ends %",
    "length_ratio": "length ratio",
    "wer_scoring": "WER %",
    "cer_scoring": "CER %",
    "wer_published": "WER % (published)",
    "cer_published": "CER % (published)",
    "sim_reference": "SIM reference",
    "sim_recording": "SIM recording",
    "mos": "MOS",
}
"""Figures of the printed table, and their headings."""


def _cell(name: str, interval: dict[str, Any] | None) -> str:
    if interval is None:
        return "-"
    factor, decimals = (100, 1) if "%" in TABLE[name] else (1, 2)
    value, low, high = (f"{factor * interval[end]:.{decimals}f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _error_counts(normalisation: str) -> list[tuple[str, Callable[[JudgedClip], float], Callable[[JudgedClip], float]]]:
    """Return the figures of a normalisation with errors and totals of a clip."""
    return [
        (
            f"wer_{normalisation}",
            lambda c: c.errors[normalisation].word_errors,
            lambda c: c.errors[normalisation].words,
        ),
        (
            f"cer_{normalisation}",
            lambda c: c.errors[normalisation].character_errors,
            lambda c: c.errors[normalisation].characters,
        ),
    ]


def _add_ratio(
    found: dict[str, Interval], name: str, clips: Sequence[JudgedClip], part: Callable, whole: Callable
) -> None:
    """Add a ratio of sums, unless there is nothing to divide by."""
    totals = _by_item(clips, whole)
    if sum(totals.values()):
        parts = _by_item(clips, part)
        found[name] = ratio_interval(list(parts.values()), list(totals.values()), _speakers_of(clips, totals))


def _by_item(clips: Sequence[JudgedClip], value: Callable[[JudgedClip], float]) -> dict[str, float]:
    """Return the mean of a value over the seeds of each sentence."""
    values: dict[str, list[float]] = {}
    for clip in clips:
        values.setdefault(clip.item, []).append(value(clip))
    return {item: sum(found) / len(found) for item, found in values.items()}


def _speakers_of(clips: Sequence[JudgedClip], items: dict[str, Any]) -> list[str] | None:
    """Return the speaker of each item; None if one is not known."""
    speakers = {clip.item: clip.speaker for clip in clips}
    found = [speakers[item] for item in items]
    return None if None in found else found


def _speakers(clips: Sequence[JudgedClip]) -> list[str] | None:
    found = [clip.speaker for clip in clips]
    return None if None in found else found


def _paired(base: Sequence[JudgedClip], other: Sequence[JudgedClip]) -> list[tuple[JudgedClip, JudgedClip]]:
    """Return clips of the same sentence and seed. A finished WAV has a seed of its own: it goes with the first."""
    of_base = {(clip.item, clip.seed): clip for clip in base}
    first = {clip.item: clip for clip in reversed(base)}
    found = []
    for clip in other:
        partner = of_base.get((clip.item, clip.seed)) or (
            first.get(clip.item) if clip.compute_seconds is None else None
        )
        if partner is not None:
            found.append((partner, clip))
    return found


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
