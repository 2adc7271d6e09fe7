"""What a source says about an utterance besides its text and speaker: dialect, gender, recording conditions."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from voice_cloning.corpora.cell_values import MISSING_VALUES, by_usual_name

ATTRIBUTE_COLUMNS = {
    "dialect": ("dialect", "speaker_dialect", "speakerdialect", "variant"),
    "accent": ("accent", "accents"),
    "country": ("country",),
    "gender": ("gender", "sex", "speaker_gender", "speakergender"),
    "age": ("age", "speaker_age", "speakerage"),
    "environment": ("environment", "recording_environment"),
    "quality": ("quality", "dnsmos", "mos", "snr"),
    "up_votes": ("up_votes",),
    "down_votes": ("down_votes",),
    "locale": ("locale",),
    "domain": ("sentence_domain", "domain", "category", "genre"),
    "show": ("showname", "show_name", "show"),
    "type": ("type",),
    "split": ("split",),
}
"""Name in ``misc`` -> the usual names of its column, in lower case."""
NUMBERS = ("age", "quality", "up_votes", "down_votes")
"""Attributes whose values are kept as numbers where they are numbers, also in tables, where every cell is a string."""


def attributes_of_header(header: Sequence[str], used: Collection[str | None]) -> dict[str, str]:
    """Return name in ``misc`` -> column, for the columns that have no other role. Case does not count."""
    usual = by_usual_name([name for name in header if name not in used])
    found = {key: next((usual[n] for n in names if n in usual), None) for key, names in ATTRIBUTE_COLUMNS.items()}
    return {key: column for key, column in found.items() if column}


def attributes_in(row: Mapping[str, Any], attributes: Mapping[str, str]) -> dict[str, str | int | float]:
    """Return the attributes of a row as ``misc`` holds them; without those that are missing or no plain value."""
    found: dict[str, str | int | float] = {}
    for key, column in attributes.items():
        value = row.get(column)
        value = value.strip() if isinstance(value, str) else value
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
            continue
        if value != "" and str(value).casefold() not in MISSING_VALUES:
            found[key] = _number(value) if key in NUMBERS and isinstance(value, str) else value
    return found


def _number(value: str) -> str | int | float:
    """Return the number that a string of digits is; any other string as it is."""
    if re.fullmatch("-?[0-9]{1,9}", value):
        return int(value)
    return float(value) if re.fullmatch(r"-?[0-9]{1,9}\.[0-9]+", value) else value
