"""The plots of the report page as inline SVG: intervals of each model, and the spread over sentences."""

import unicodedata
from collections.abc import Sequence
from html import escape

import numpy as np

from voice_cloning.evaluation.page_parts import number, round_ticks, visible
from voice_cloning.evaluation.report_figures import MAIN_FIGURES, figure, is_number
from voice_cloning.evaluation.report_form import Report

WIDTH = 320
"""Width of a plot, in units of its view box."""
LEFT, RIGHT, BOTTOM = 10, 14, 22
ROW = 34
"""Height of the row of one model: its name above its interval."""
LONGEST_LABEL = 40
"""Characters of a name that fit; the rest is in the tooltip."""
PERCENTILES = (5, 25, 50, 75, 95)


def interval_plots(systems: Sequence[Report], scales: Report) -> str:
    """Return one plot for each main figure that was measured: a row for each model, then one for each scale."""
    plots = []
    for name in MAIN_FIGURES:
        rows = [(s["name"], s["figures"].get(name), False) for s in systems]
        rows += [(label, interval, True) for label, interval in scales.get(name, {}).items()]
        rows = [row for row in rows if row[1] and is_number(row[1]["value"])]
        if rows:
            plots.append(_interval_plot(name, rows))
    return "".join(plots)


def _interval_plot(name: str, rows: Sequence[tuple[str, Report, bool]]) -> str:
    shown = figure(name)
    factor = 100.0 if shown.is_share else 1.0
    spans = []
    for label, interval, is_scale in rows:
        value = interval["value"]
        low, high = (interval[end] if is_number(interval[end]) else value for end in ("low", "high"))
        spans.append((label, factor * low, factor * value, factor * high, is_scale))
    axis = _Axis([end for _, low, _, high, _ in spans for end in (low, high)], len(rows))
    marks = []
    for row, (label, low, value, high, is_scale) in enumerate(spans):
        y, kind = axis.y(row), "scale" if is_scale else "model"
        tip = f"{label}: {number(value)} ({number(low)} to {number(high)}){shown.unit}"
        line = f'<line class="whisker" x1="{axis.x(low):.1f}" y1="{y}" x2="{axis.x(high):.1f}" y2="{y}"/>'
        point = f'<circle cx="{axis.x(value):.1f}" cy="{y}" r="4.5"/>'
        marks.append(f'<g class="{kind}"><title>{_svg_text(tip)}</title>{axis.label(row, label)}{line}{point}</g>')
    told = "; ".join(f"{label} {number(value)}" for label, _, value, _, _ in spans)
    return _plot(
        f"{shown.title} (%)" if shown.is_share else shown.title, told, axis, marks, "the value and its interval"
    )


def spread_plots(systems: Sequence[Report], values: dict[str, Sequence[Sequence[float]]]) -> str:
    """Return the plots of how a measure spreads over the clips of each model.

    Args:
        systems: ``systems`` of report.json.
        values: title -> for each model the values of its clips. A plot without any value is left out.
    """
    plots = []
    for title, of_systems in values.items():
        rows = [
            (system["name"], np.percentile(clips, PERCENTILES).tolist(), len(clips))
            for system, clips in zip(systems, of_systems, strict=True)
            if len(clips)
        ]
        if rows:
            plots.append(_spread_plot(title, rows))
    return "".join(plots)


def _spread_plot(title: str, rows: Sequence[tuple[str, list[float], int]]) -> str:
    axis = _Axis([end for _, points, _ in rows for end in (points[0], points[-1])], len(rows))
    marks = []
    for row, (label, points, count) in enumerate(rows):
        y = axis.y(row)
        p5, p25, p50, p75, p95 = map(axis.x, points)
        told = ", ".join(f"{percentile} %: {number(v)}" for percentile, v in zip(PERCENTILES, points, strict=True))
        marks.append(
            f'<g class="model"><title>{_svg_text(f"{label}: {told}; {number(count)} clips")}</title>'
            f'{axis.label(row, label)}<line class="whisker" x1="{p5:.1f}" y1="{y}" x2="{p95:.1f}" y2="{y}"/>'
            f'<rect x="{p25:.1f}" y="{y - 5}" width="{max(1.0, p75 - p25):.1f}" height="10"/>'
            f'<line class="median" x1="{p50:.1f}" y1="{y - 8}" x2="{p50:.1f}" y2="{y + 8}"/></g>'
        )
    told = "; ".join(f"{label} {number(points[2])}" for label, points, _ in rows)
    return _plot(title, told, axis, marks, "middle line: median; box: middle half of the clips; line: 90 % of them")


def _plot(title: str, told: str, axis: "_Axis", marks: list[str], caption: str) -> str:
    return (
        f'<figure class="card"><h3>{visible(title)}</h3><svg class="intervals" viewBox="0 0 {WIDTH} {axis.height}" '
        f'role="img" aria-label="{escape(_plain_text(f"{title}: {told}"))}">{axis.svg()}{"".join(marks)}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


class _Axis:
    """A horizontal axis under some rows.

    Args:
        ends: all values that must fit.
        rows: the number of rows.
    """

    def __init__(self, ends: Sequence[float], rows: int) -> None:
        low, high = min(ends), max(ends)
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
        self.low, self.high = low - margin, high + margin
        self.bottom = ROW * rows + 4
        self.height = self.bottom + BOTTOM

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.low) / (self.high - self.low)

    def y(self, row: int) -> int:
        return ROW * row + 24

    def label(self, row: int, text: str) -> str:
        shown = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}\u2026"
        return f'<text x="{LEFT}" y="{ROW * row + 13}">{_svg_text(shown)}</text>'

    def svg(self) -> str:
        """Return the axis with its ticks, and a thin line up from each tick."""
        y = self.bottom
        parts = [f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>']
        for tick in round_ticks(self.low, self.high):
            x = self.x(tick)
            anchor = "start" if x < 2 * LEFT else "end" if x > WIDTH - 2 * RIGHT else "middle"
            parts.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{y + 4}"/>')
            parts.append(f'<text x="{x:.1f}" y="{y + 17}" text-anchor="{anchor}">{number(tick)}</text>')
        return "".join(parts)


def _plain_text(text: str) -> str:
    """Return a text in which characters without a form of their own are written as numbers."""
    return "".join(f"U+{ord(c):04X}" if unicodedata.category(c)[0] == "C" else c for c in text)


def _svg_text(text: str) -> str:
    return escape(_plain_text(text))
