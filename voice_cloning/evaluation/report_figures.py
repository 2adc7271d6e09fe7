"""The figures of report.json as a reader sees them: titles, units, which way is better, intervals as text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from voice_cloning.evaluation.page_parts import number, visible
from voice_cloning.evaluation.report_form import Report


@dataclass(frozen=True)
class Figure:
    """How one figure is shown.

    Attributes:
        title: its heading.
        digits: digits after the point; of a share, those of the percentage.
        is_share: whether it is shown as a percentage.
        better: ``more`` or ``less`` if one of them is better; None if neither is.
    """

    title: str
    digits: int
    is_share: bool = False
    better: str | None = None

    def show(self, value: float | None, signed: bool = False) -> str:
        """Return a value as HTML; of a share without its unit. ``signed`` is for differences."""
        if not is_number(value):
            return "&mdash;"
        scaled = 100.0 * value if self.is_share else value
        text = f"{scaled:+.{self.digits}f}" if signed else f"{scaled:.{self.digits}f}"
        if float(text) == 0.0:
            text = text.lstrip("+-")
        return text.replace("-", "&minus;")

    @property
    def unit(self) -> str:
        return " %" if self.is_share else ""


FIGURES = {
    "stop_rate": Figure("Ends by itself", 1, True, "more"),
    "length_ratio": Figure("Length ratio (median)", 2),
    "wer_scoring": Figure("WER", 1, True, "less"),
    "cer_scoring": Figure("CER", 1, True, "less"),
    "sim_reference": Figure("SIM to the reference", 3, False, "more"),
    "mos": Figure("MOS", 2, False, "more"),
    "sim_recording": Figure("SIM to the true recording", 3, False, "more"),
    "wer_published": Figure("WER, published normalisation", 1, True, "less"),
    "cer_published": Figure("CER, published normalisation", 1, True, "less"),
    "length_ratio_p5": Figure("Length ratio, 5th percentile", 2),
    "length_ratio_p95": Figure("Length ratio, 95th percentile", 2),
    "repeated_share": Figure("Repeated frames", 1, True, "less"),
    "silent_share": Figure("Silent frames", 1, True),
    "characters_per_second": Figure("Characters per second", 1),
}
"""Name in report.json -> how it is shown, in the order of the columns."""
MAIN_FIGURES = ("stop_rate", "length_ratio", "wer_scoring", "cer_scoring", "sim_reference", "mos")
"""The figures of the first table and of the plots. The others have a table of their own."""


def figure(name: str) -> Figure:
    """Return how a figure is shown. One without an entry has its name as its title."""
    return FIGURES.get(name) or Figure(name.replace("_", " ").capitalize(), 3)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number: what does not exist is null, or NaN, in report.json."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def measured(figure_sets: Sequence[Report]) -> list[str]:
    """Return the names of all figures that at least one of the sets (name -> interval) has, in the order to show."""
    found = {name for figures in figure_sets for name, interval in figures.items() if interval}
    unknown = sorted(found - FIGURES.keys())
    return [*(name for name in FIGURES if name in found), *unknown]


def interval_text(name: str, interval: Report | None, usual_n: int | None = None) -> str:
    """Return a value and its interval as HTML; a dash for a figure that was not measured.

    Args:
        name: the figure's name.
        interval: ``{"value", "low", "high", "n", "method"}``, or None.
        usual_n: the number of values that is told elsewhere; another number is added.
    """
    if not interval:
        return '<abbr title="not measured">&mdash;</abbr>'
    shown = figure(name)
    text = f"<strong>{shown.show(interval['value'])}{shown.unit}</strong>"
    inside = []
    if is_number(interval["low"]) and is_number(interval["high"]):
        inside.append(f"{shown.show(interval['low'])} to {shown.show(interval['high'])}")
    if interval["n"] != usual_n and is_number(interval["n"]):
        inside.append(f"n {number(interval['n'])}")
    return text + (f" <span class='range'>{', '.join(inside)}</span>" if inside else "")


def verdict(name: str, difference: Report) -> str:
    """Return ``better``, ``worse``, ``differs`` (neither way is better) or ``unclear`` (its interval holds 0)."""
    low, high = difference["low"], difference["high"]
    if not (is_number(low) and is_number(high)) or low <= 0.0 <= high:
        return "unclear"
    better = figure(name).better
    if better is None:
        return "differs"
    return "better" if (low > 0.0) == (better == "more") else "worse"


VERDICTS = {
    "better": ("good", "better"),
    "worse": ("bad", "worse"),
    "differs": ("warn", "differs"),
    "unclear": ("none", "unclear"),
}
"""Verdict -> class of its mark, and its words."""


def difference_text(name: str, difference: Report | None) -> str:
    """Return a paired difference against the base with its verdict as HTML; nothing if there is none."""
    if not difference:
        return ""
    shown, (mark, words) = figure(name), VERDICTS[verdict(name, difference)]
    unit = " points" if shown.is_share else ""
    text = f"{shown.show(difference['value'], signed=True)}{unit} <span class='mark {mark}'>{words}</span>"
    if is_number(difference["low"]) and is_number(difference["high"]):
        low, high = (shown.show(difference[end], signed=True) for end in ("low", "high"))
        text += f" <span class='range'>{low} to {high}</span>"
    return f"<div class='difference'>{text}</div>"


def methods_text(intervals: Sequence[tuple[str, Report]]) -> str:
    """Return which method made the intervals of which figures, as HTML."""
    methods: dict[str, list[str]] = {}
    for name, interval in intervals:
        if interval and interval["method"]:
            titles = methods.setdefault(str(interval["method"]), [])
            if figure(name).title not in titles:
                titles.append(figure(name).title)
    return "; ".join(f"{visible(method)}: {visible(', '.join(titles))}" for method, titles in methods.items())
