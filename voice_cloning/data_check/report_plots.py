"""Draws the figures of the report: histograms as inline SVG, speakers as a table of bars, characters as a grid.

All functions return HTML with escaped data; ``report_page.html`` sets the colours and sizes.
"""

import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Any

from voice_cloning.evaluation.page_parts import number, round_ticks, visible

WIDTH, HEIGHT = 320, 150
"""Size of a histogram, in units of its view box."""
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 16, 20
"""Margins around a histogram's bars."""
LEAST_BAR = 1.5
"""Least height of a bar, so that a single outlier among very many clips is visible."""
SPEAKERS_SHOWN = 30
HISTOGRAMS = {
    "target_seconds": ("Length of targets", "s"),
    "reference_seconds": ("Length of references", "s"),
    "pitch_hz": ("Pitch", "Hz"),
    "characters_per_second": ("Characters per second", ""),
    "peak_dbfs": ("Peak", "dBFS"),
    "level_dbfs": ("Level", "dBFS"),
    "silence_share": ("Share of silence", ""),
}
"""Name in report.json -> title and unit."""
CHARACTER_GROUPS = {
    "L": "Letters",
    "M": "Diacritics and other marks",
    "N": "Digits and numbers",
    "P": "Punctuation",
    "S": "Symbols",
    "Z": "Spaces",
    "C": "Invisible and unassigned",
}
"""First letter of the Unicode category -> heading."""


def histogram(name: str, edges: Sequence[float], counts: Sequence[int]) -> str:
    """Return the figure of one distribution; ``edges`` has one value more than ``counts``."""
    title, unit = HISTOGRAMS.get(name, (name.replace("_", " ").capitalize(), ""))
    heading = f"<h3>{escape(title)}{f' ({escape(unit)})' if unit else ''}</h3>"
    total = sum(counts)
    if not total:
        return f'<figure class="card">{heading}<p class="soft">no values</p></figure>'
    filled = [i for i, count in enumerate(counts) if count]
    caption = (
        f"{number(total)} clips, from {number(edges[filled[0]])} to {number(edges[filled[-1] + 1])} {unit}".strip()
    )
    return (
        f'<figure class="card">{heading}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{title}: {caption}")}">{_axis(edges)}{_bars(edges, counts, unit)}</svg>'
        f"<figcaption>{escape(caption)}; the tallest bar is {number(max(counts))}</figcaption></figure>"
    )


def _x(value: float, edges: Sequence[float]) -> float:
    span = edges[-1] - edges[0]
    return LEFT + (WIDTH - LEFT - RIGHT) * ((value - edges[0]) / span if span else 0.5)


def _bars(edges: Sequence[float], counts: Sequence[int], unit: str) -> str:
    height, highest, bars = HEIGHT - TOP - BOTTOM, max(counts), []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            bar = max(LEAST_BAR, height * count / highest)
            x, width = _x(low, edges), max(1.0, _x(high, edges) - _x(low, edges) - 0.5)
            tip = escape(f"{number(low)} to {number(high)} {unit}".strip() + f": {number(count)}")
            shape = f'x="{x:.1f}" y="{HEIGHT - BOTTOM - bar:.1f}" width="{width:.1f}" height="{bar:.1f}"'
            bars.append(f"<rect {shape}><title>{tip}</title></rect>")
    return "".join(bars)


def _axis(edges: Sequence[float]) -> str:
    y = HEIGHT - BOTTOM
    parts = [f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>']
    for tick in round_ticks(edges[0], edges[-1]):
        x = _x(tick, edges)
        anchor = "start" if x < 2 * LEFT else "end" if x > WIDTH - 2 * RIGHT else "middle"
        parts.append(f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}">{number(tick)}</text>')
    return "".join(parts)


def speakers_table(speakers: Sequence[dict[str, Any]]) -> str:
    """Return a table with bars of the speakers (``{"name", "hours", "clips"}`` each), the one with most hours first."""
    ranked = sorted(speakers, key=lambda speaker: -speaker["hours"])
    total = sum(speaker["hours"] for speaker in ranked) or 1.0
    longest = ranked[0]["hours"] or 1.0
    rows = [
        f"<tr><th scope='row'><bdi>{visible(str(s['name']))}</bdi></th>"
        f"<td class='track'><div style='width:{100 * s['hours'] / longest:.1f}%'></div></td>"
        f"<td class='number'>{s['hours']:.2f}</td><td class='number'>{100 * s['hours'] / total:.1f} %</td>"
        f"<td class='number'>{number(s['clips'])}</td></tr>"
        for s in ranked[:SPEAKERS_SHOWN]
    ]
    rest = ranked[SPEAKERS_SHOWN:]
    left_out = f"; {number(len(rest))} more hold {sum(s['hours'] for s in rest):.2f} h" if rest else ""
    heads = "".join(f"<th scope='col' class='number'>{head}</th>" for head in ("Hours", "Share", "Clips"))
    return (
        f"<table class='speakers'><caption class='soft'>{number(len(ranked))} speakers{left_out}</caption>"
        f"<thead><tr><th scope='col'>Speaker</th><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def characters_grid(characters: Sequence[dict[str, Any]]) -> str:
    """Return the characters of the texts (``{"character", "name", "count"}``) by kind, the most frequent first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in sorted(characters, key=lambda entry: -entry["count"]):
        category = unicodedata.category(entry["character"][:1] or " ")[0]
        script = "Latin letters" if category == "L" and "LATIN" in entry["name"] else CHARACTER_GROUPS[category]
        groups.setdefault(script, []).append(entry)
    order = [*CHARACTER_GROUPS.values()]
    order.insert(1, "Latin letters")
    parts = []
    for heading in (name for name in order if name in groups):
        chips = "".join(
            f"<li title='{escape(e['name'], quote=True)}'><bdi lang='ar'>{_shown(e['character'])}</bdi>"
            f"<span class='soft'>{number(e['count'])}</span></li>"
            for e in groups[heading]
        )
        parts.append(f"<p class='soft'>{heading} ({len(groups[heading])})</p><ul class='characters'>{chips}</ul>")
    return "".join(parts)


def _shown(character: str) -> str:
    """Return a visible form of a single character: marks on a dotted circle, spaces as numbers."""
    if unicodedata.category(character[:1] or " ")[0] == "M":
        return f"&#x25CC;{escape(character)}"
    if character.isspace():
        return f'<span class="code" dir="ltr">U+{ord(character):04X}</span>'
    return visible(character)
