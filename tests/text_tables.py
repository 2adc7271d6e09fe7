"""Reads the tables of texts in ``arabic_texts/``: what goes in, and what must come out."""

import re
from pathlib import Path

TABLES = Path(__file__).parent / "arabic_texts"
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|U([0-9a-f]{8})|([nrt]))")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}


def read_table(name: str) -> list[tuple[str, str]]:
    """Pairs of a text and what becomes of it, escapes resolved; lines that start with '# ' or '## ' are headings."""
    lines = (TABLES / f"{name}.tsv").read_text(encoding="utf-8").split("\n")
    rows = [line.split("\t") for line in lines if line and not line.startswith(("# ", "## "))]
    return [(_plain(text), _plain(expected)) for text, expected in rows]


def _plain(cell: str) -> str:
    return _ESCAPE.sub(lambda found: _CONTROLS.get(found[3]) or chr(int(found[1] or found[2], 16)), cell)
