"""Counts what a filter kept and dropped: by file, rule, speaker and dialect; and says why nothing is left."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from boson_multimodal.errors import visible
from voice_cloning.data_check.corpus_rules import RateBand
from voice_cloning.data_check.filter_faults import Fault
from voice_cloning.data_check.filter_rules import RANGES, RULES, VOICE, WHERE, Bounds, shown_bounds, shown_value
from voice_cloning.data_check.sample_rules import Measures
from voice_cloning.data_check.samples import CheckedSample

LISTED = 20
"""Speakers, and dialects, that are printed."""
Faults = Mapping[str, Sequence[Fault]]


def summarise_filter(
    samples: Sequence[CheckedSample],
    measures: Measures,
    faults: Faults,
    bands: Mapping[Path, RateBand],
    rules: Sequence[str],
    bounds: Bounds,
    not_applied: Mapping[str, str],
    voices: Mapping[str, Any],
    least_clips: int,
    where: str | None = None,
) -> dict[str, Any]:
    """Return the content of ``filter_summary.json``.

    Args:
        bands: the rates of speech of each file.
        not_applied: rule -> why it was not applied.
        voices: what the comparison of voices found, as in the summary of the check.
        least_clips: a speaker that keeps fewer targets is listed, unless the condition leaves out all of its samples.
        where: the condition of the rule ``where``, if it applies.
    """

    def counted(own: Sequence[CheckedSample]) -> dict[str, Any]:
        kept = [sample for sample in own if sample.sample_id not in faults]
        hours, kept_hours = _hours(own, measures), _hours(kept, measures)
        return {"samples": len(own), "kept": len(kept), "hours": hours, "kept_hours": kept_hours}

    def grouped(name: str, group: Callable[[CheckedSample], str | None]) -> list[dict[str, Any]]:
        groups: dict[str | None, list[CheckedSample]] = {}
        for sample in samples:
            groups.setdefault(group(sample), []).append(sample)
        found = [{name: key, **counted(own)} for key, own in groups.items()]
        return sorted(found, key=lambda entry: (entry["kept"] - entry["samples"], entry[name] or ""))

    files = [
        {
            "file": str(path),
            "side": own[0].side,
            **counted(own),
            "letters_per_second": _band(bands[path]),
        }
        for path in bands
        if (own := [sample for sample in samples if sample.path == path])
    ]
    speakers = grouped("speaker", lambda sample: sample.speaker)
    shown = {rule: _shown_bounds(rule, bounds, voices, where) for rule in rules}
    has_dialects = any(sample.dialect is not None for sample in samples)
    return {
        **counted(samples),
        "files": files,
        "rules": [_of_rule(rule, samples, measures, faults, shown[rule]) for rule in rules],
        "not_applied": dict(not_applied),
        "voices": voices["statement"],
        "speakers": speakers,
        "speakers_with_few_clips": _with_few_clips(speakers, _chosen(samples, faults), least_clips),
        "least_clips_per_speaker": least_clips,
        "dialects": grouped("dialect", lambda sample: sample.dialect) if has_dialects else [],
        "bounds": bounds.values(),
        **({} if where is None else {"where": where}),
    }


def _with_few_clips(
    speakers: Sequence[Mapping[str, Any]], chosen: Sequence[CheckedSample], least_clips: int
) -> list[dict[str, Any]]:
    """Return the speakers of the chosen samples that keep fewer than ``least_clips``."""
    of_chosen = {sample.speaker for sample in chosen} - {None}
    few = [s for s in speakers if s["speaker"] in of_chosen and s["kept"] < least_clips]
    return [{name: s[name] for name in ("speaker", "kept", "samples")} for s in few]


def _chosen(samples: Sequence[CheckedSample], faults: Faults) -> list[CheckedSample]:
    """Return the samples that the condition does not leave out."""
    return [s for s in samples if all(fault.rule != WHERE for fault in faults.get(s.sample_id, ()))]


def _hours(samples: Sequence[CheckedSample], measures: Measures) -> float:
    """Return the hours of the different targets."""
    seconds = {used.clip: measures[used.clip].seconds for sample in samples for used in sample.targets}
    return round(sum(seconds.values()) / 3600, 6)


def _band(band: RateBand) -> dict[str, Any]:
    least, most = band.bounds
    own = "the file's own band" if band.is_own else f"the bounds of any speech: {band.clips} clips have no band"
    return {"clips": band.clips, "least": round(least, 2), "most": round(most, 2), "from": own}


def _shown_bounds(rule: str, bounds: Bounds, voices: Mapping[str, Any], where: str | None) -> str:
    if rule == WHERE:
        return f"--where {visible(where)}"
    return f"--speaker_threshold {voices['threshold']:g}" if rule == VOICE else shown_bounds(rule, bounds)


def _of_rule(
    rule: str, samples: Sequence[CheckedSample], measures: Measures, faults: Faults, bounds: str
) -> dict[str, Any]:
    names = {sample_id: {fault.rule for fault in own} for sample_id, own in faults.items()}
    dropped = [sample for sample in samples if rule in names.get(sample.sample_id, ())]
    own = [fault for sample in dropped for fault in faults[sample.sample_id] if fault.rule == rule]
    return {
        "rule": rule,
        "what": RULES[rule].what,
        "bounds": bounds,
        "samples": len(dropped),
        "alone": sum(names[sample.sample_id] == {rule} for sample in dropped),
        "hours": _hours(dropped, measures),
        "targets": len({fault.audio for fault in own if fault.clip == "target"}),
        "references": len({fault.audio for fault in own if fault.clip == "reference"}),
    }


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the table of a summary, as it is printed."""
    lines = []
    for file in summary["files"]:
        rates = file["letters_per_second"]
        lines.append(
            f"{file['file']}: {file['side']}, keeps {file['kept']} of {file['samples']} samples, "
            f"{file['kept_hours']:.3f} of {file['hours']:.3f} h; letters per second {rates['least']:g} to "
            f"{rates['most']:g} ({rates['from']})"
        )
    rows = [("rule", "drops", "alone", "hours", "bounds")]
    for rule in summary["rules"]:
        rows.append((rule["rule"], str(rule["samples"]), str(rule["alone"]), f"{rule['hours']:.3f}", rule["bounds"]))
    lines += ["", *_aligned(rows)]
    lines += [f"not applied: {rule} ({reason})" for rule, reason in summary["not_applied"].items()]
    if any(rule["rule"] == VOICE for rule in summary["rules"]):
        lines.append(f"voices: {summary['voices']}")
    for name, entries in (("speaker", summary["speakers"]), ("dialect", summary["dialects"])):
        if entries:
            rows = [(name, "kept", "of", "hours kept", "of")]
            for entry in entries[:LISTED]:
                known = "(none)" if entry[name] is None else str(entry[name])
                hours = f"{entry['kept_hours']:.3f}", f"{entry['hours']:.3f}"
                rows.append((known, str(entry["kept"]), str(entry["samples"]), *hours))
            lines += ["", *_aligned(rows)]
            if len(entries) > LISTED:
                lines.append(f"... and {len(entries) - LISTED} more, which lose no more than these")
    few = summary["speakers_with_few_clips"]
    if few:
        least = summary["least_clips_per_speaker"]
        told = ", ".join(f"{s['speaker']} ({s['kept']} of {s['samples']})" for s in few[:LISTED])
        more = f", and {len(few) - LISTED} more" if len(few) > LISTED else ""
        lines += ["", f"{len(few)} speaker(s) keep fewer than {least} samples: {told}{more}"]
    kept, hours = f"{summary['kept']} of {summary['samples']} samples", f"{summary['kept_hours']:.3f}"
    return [*lines, "", f"kept: {kept}, {hours} of {summary['hours']:.3f} h"]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def why_nothing_is_left(samples: Sequence[CheckedSample], faults: Faults, bounds: Bounds) -> list[str]:
    """Return a message for each file of which no sample is kept: the rule that drops most, and what would keep some."""
    messages = []
    chosen = _chosen(samples, faults)
    of_where = " that --where keeps" if len(chosen) < len(samples) else ""
    for path in dict.fromkeys(sample.path for sample in samples):
        own = [sample for sample in chosen if sample.path == path]
        if any(sample.sample_id not in faults for sample in own):
            continue
        counts = {rule: sum(any(f.rule == rule for f in faults[s.sample_id]) for s in own) for rule in RULES}
        rule = max(counts, key=lambda name: counts[name])
        first = next(s for s in own if any(f.rule == rule for f in faults[s.sample_id]))
        detail = next(fault.detail for fault in faults[first.sample_id] if fault.rule == rule)
        told = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        remedy = f"--without {rule} leaves the rule out"
        bound = _half_kept([f for s in own for f in faults[s.sample_id] if f.rule == rule], own, faults, bounds)
        if bound:
            remedy = f"{bound} would let half of them pass this rule; {remedy}"
        messages.append(
            f"{path}: all {len(own)} samples{of_where} are dropped ({told}). The rule {rule} drops most, for example "
            f"{first.sample_id}: {detail}. {remedy}"
        )
    return messages


def _half_kept(
    of_rule: Sequence[Fault], samples: Sequence[CheckedSample], faults: Faults, bounds: Bounds
) -> str | None:
    """Return the flag with a bound that half of the samples keep; None if the rule has no such bound."""
    kinds = [fault.kind for fault in of_rule if fault.kind in RANGES and fault.kind != "rate_deviations"]
    if not kinds:
        return None
    kind = max(dict.fromkeys(kinds), key=kinds.count)
    values = [[f for f in faults[s.sample_id] if f.kind == kind] for s in samples]
    values = [own for own in values if own]
    values.sort(key=lambda own: max(abs(fault.value - fault.bound) for fault in own))
    near = [fault for own in values[: -(-len(values) // 2)] for fault in own]
    low = [_rounded(fault.value, math.floor) for fault in near if fault.value < fault.bound]
    high = [_rounded(fault.value, math.ceil) for fault in near if fault.value > fault.bound]
    now = getattr(bounds, kind)
    if isinstance(now, tuple):
        wanted: float | tuple[float, float] = (min([now[0], *low]), max([now[1], *high]))
    else:
        wanted = min(low) if low else max(high)
    values_of = wanted if isinstance(wanted, tuple) else (wanted,)
    held = RANGES[kind]
    return f"--{kind} {shown_value(wanted)}" if all(held.lowest <= v <= held.highest for v in values_of) else None


def _rounded(value: float, to: Callable[[float], int]) -> float:
    """Return a value to three digits, in the direction of ``to``."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    return float(f"{to(value / step) * step:.6g}")
