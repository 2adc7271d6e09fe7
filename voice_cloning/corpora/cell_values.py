"""Reads the value of one cell of a table strictly: a time, a channel; and what programs write for a missing value."""

import math
import re
from collections.abc import Sequence
from typing import Any

MISSING_VALUES = {"nan", "null", "none", "<na>", "n/a"}
"""What programs write for a missing value."""
CHANNELS = {"A": 0, "B": 1, "L": 0, "R": 1}
SHOWN_CHARACTERS = 60


class WrongValue(ValueError):
    """A value of a row is not what its column holds. The message says what would be right."""


def by_usual_name(header: Sequence[str]) -> dict[str, str]:
    """Return usual name -> column. ``Speaker ID``, ``speaker-id`` and ``speakerId`` are spellings of ``speaker_id``.

    A column that is called like a usual name, in upper or lower case, comes before one that is spelled in another way.
    """
    found = {re.sub("[ -]+", "_", re.sub("(?<=[a-z])(?=[A-Z])", "_", n)).casefold(): n for n in reversed(header)}
    return found | {name.casefold(): name for name in reversed(header)}


def has_no_letter(value: str) -> bool:
    """Return whether a value is a bare number or sign."""
    return not any(character.isalpha() for character in value)


def seconds_value(value: str, name: str) -> float:
    """Return a time in seconds.

    Raises:
        WrongValue: if it is no number, not finite, or negative.
    """
    text = value.strip()
    # float() also takes nan, infinity and 1_000.
    if not re.fullmatch(r"[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]{1,2})?|\.[0-9]+", text) or math.isinf(float(text)):
        raise WrongValue(f"{name} must be a number of seconds of at least 0, not {value!r}")
    return float(text)


def channel_of(value: Any, name: str | None) -> int | None:
    """Return a channel, counted from 0; None if none is named. ``A`` and ``L`` are 0, ``B`` and ``R`` are 1.

    Raises:
        WrongValue: if it is no channel.
    """
    if value is None or value == "":
        return None
    text = str(value).strip().upper()
    if text in CHANNELS:
        return CHANNELS[text]
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,3}", text):
        raise WrongValue(f"{name} must be a channel, counted from 0, or A or B, not {shown(value)}")
    return int(text)


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    found = repr(value)
    return f"{found[:SHOWN_CHARACTERS]}..." if len(found) > SHOWN_CHARACTERS else found
