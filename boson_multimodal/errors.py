"""The error for wrong input of the user, and functions that list many problems in one error."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

LISTED_OFFENDERS = 20

Item = TypeVar("Item")
Found = TypeVar("Found")


class InputError(ValueError):
    """A file, field or flag of the user is wrong. The message names it and says what would be right.

    Invisible characters in the message are shown by :func:`visible`, because they are often what is wrong.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class NamedError(RuntimeError):
    """Something other than the input stops the work. The message says what to do; no traceback is shown."""


class ProblemKind(StrEnum):
    """The kind of a problem with a sample. The values are the kinds that the data check reports."""

    MALFORMED_RECORD = "malformed_record"
    MISSING_TEXT = "missing_text"
    UNUSABLE_AUDIO = "unusable_audio"
    OVER_LIMIT = "over_limit"


@dataclass(frozen=True)
class Problem:
    """A problem with a sample.

    Attributes:
        kind: the kind of the problem.
        message: ``field: value; what would be right``. It is also the problem's ``str``.
    """

    kind: ProblemKind
    message: str

    def __str__(self) -> str:
        return self.message


def visible(text: str) -> str:
    """Return a text in which what cannot be seen is written as ``<U+200F>``.

    These are control and format characters such as direction marks, lone surrogates, private and unassigned
    characters, spaces other than the usual one, and marks that would join the character before them to one character
    (in names of macOS). Line feeds and tabs stay.
    """
    shown = []
    for i, character in enumerate(text):
        joins = i > 0 and len(unicodedata.normalize("NFC", text[i - 1] + character)) == 1
        category = unicodedata.category(character)
        hidden = category[0] == "C" or category in ("Zl", "Zp") or (category == "Zs" and character != " ")
        is_shown_as_code = joins or (hidden and character not in "\n\t")
        shown.append(f"<U+{ord(character):04X}>" if is_shown_as_code else character)
    return "".join(shown)


def raise_if_any(heading: str, offenders: Sequence[str | Problem]) -> None:
    """Raise one :class:`InputError` with the number of ``offenders`` and the first twenty of them.

    Raises:
        InputError: if ``offenders`` is not empty.
    """
    if offenders:
        raise InputError("\n".join(listed(f"{heading} ({len(offenders)})", offenders)))


def listed(heading: str, offenders: Sequence[str | Problem]) -> list[str]:
    """Return lines with the heading, the first twenty ``offenders``, and the number of the others."""
    shown = [f"  {offender}" for offender in offenders[:LISTED_OFFENDERS]]
    if len(offenders) > LISTED_OFFENDERS:
        shown.append(f"  ... and {len(offenders) - LISTED_OFFENDERS} more")
    return [f"{heading}:", *shown]


def result_or_message(function: Callable[[], Found]) -> tuple[Found | None, str | None]:
    """Return the result of a call and None; or None and the message of the ``InputError`` that it raised.

    For checks that go on after a problem, and raise all of them at last.
    """
    try:
        return function(), None
    except InputError as error:
        return None, str(error)


class Problems:
    """Collects what is wrong, each problem once, so that checks go on after the first one.

        problems = Problems()
        data = problems.tried(lambda: read(path))
        problems.raise_all()

    Attributes:
        messages: the problems, in the order in which they were found.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, message: str | None) -> None:
        """Add a problem, unless it is None or was added before."""
        if message is not None and message not in self.messages:
            self.messages.append(message)

    def add_all(self, others: "Problems") -> None:
        """Add problems that were collected elsewhere."""
        for message in others.messages:
            self.add(message)

    def tried(self, check: Callable[[], Found]) -> Found | None:
        """Return the result of a call; or None, after adding the message of the ``InputError`` that it raised."""
        found, message = result_or_message(check)
        self.add(message)
        return found

    def raise_all(self) -> None:
        """Raise one :class:`InputError` with all problems, if there are any."""
        if self.messages:
            raise InputError("\n".join(self.messages))


def call_for_each(function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Call ``function`` for every item, such as a file to read, and return the results in order.

    Raises:
        InputError: if any call raised one. It is raised after all calls, with all their messages.
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
