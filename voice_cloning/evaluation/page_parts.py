"""What all report pages are made of: their style, numbers and texts as HTML, lists of facts, axes of plots.

The pages open from disk without network. All functions return HTML or SVG in which the data are escaped.
"""

import math
import unicodedata
from html import escape
from pathlib import Path
from typing import Any

STYLE_FILE = Path(__file__).with_name("page_style.css")
TICKS = 5


def page_style() -> str:
    """Return the style sheet that all pages share."""
    return STYLE_FILE.read_text(encoding="utf-8").strip()


def number(value: float) -> str:
    """Return a number in a readable form: ``12,345`` or ``3.25``."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def visible(text: str) -> str:
    """Return ``text`` as HTML, with control, format and unassigned characters and lone surrogates as numbers."""
    parts = []
    for character in text:
        if unicodedata.category(character)[0] == "C" and character != "\n":
            parts.append(f'<span class="code" dir="ltr">U+{ord(character):04X}</span>')
        else:
            parts.append(escape(character))
    return "".join(parts)


def facts(pairs: dict[str, Any]) -> str:
    """Return names and values as a list."""
    items = [f"<div><dt>{visible(str(name))}</dt><dd>{visible(plain(v))}</dd></div>" for name, v in pairs.items()]
    return f"<dl class='facts'>{''.join(items)}</dl>"


def plain(value: Any) -> str:
    """Return a value of report.json as readable text."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return number(value)


def round_ticks(low: float, high: float) -> list[float]:
    """Return about ``TICKS`` round numbers from ``low`` to ``high``."""
    if high <= low:
        return [low]
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
