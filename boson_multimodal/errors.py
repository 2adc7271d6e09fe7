"""The error for wrong input of the user, the problems that it lists, and how many of them are listed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

LISTED_OFFENDERS = 20

Item = TypeVar("Item")
Found = TypeVar("Found")


class InputError(ValueError):
    """A file, field or flag of the user is wrong. The message names it and says what would be right."""


class ProblemKind(StrEnum):
    """What is wrong with a sample. The values are the kinds that the data check reports."""

    MALFORMED_RECORD = "malformed_record"
    MISSING_TEXT = "missing_text"
    UNUSABLE_AUDIO = "unusable_audio"
    OVER_LIMIT = "over_limit"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a sample.

    Attributes:
        kind: what it is about.
        message: ``field: value; what would be right``. It is also the problem's ``str``.
    """

    kind: ProblemKind
    message: str

    def __str__(self) -> str:
        return self.message


def raise_if_any(heading: str, offenders: Sequence[str | Problem]) -> None:
    """Raise one :class:`InputError` with the number of ``offenders`` and the first twenty of them.

    Raises:
        InputError: if ``offenders`` is not empty.
    """
    if not offenders:
        return
    shown = [f"  {offender}" for offender in offenders[:LISTED_OFFENDERS]]
    if len(offenders) > LISTED_OFFENDERS:
        shown.append(f"  ... and {len(offenders) - LISTED_OFFENDERS} more")
    raise InputError("\n".join([f"{heading} ({len(offenders)}):", *shown]))


def call_for_each(function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """``function(item)`` of every item in order, such as a file that it reads.

    Raises:
        InputError: if any call raised one, after all calls, with the messages of all of them.
    """
    found: list[Found] = []
    messages: list[str] = []
    for item in items:
        try:
            found.append(function(item))
        except InputError as error:
            messages.append(str(error))
    if messages:
        raise InputError("\n".join(messages))
    return found
