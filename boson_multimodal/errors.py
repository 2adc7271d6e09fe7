"""The error for wrong input of the user, and the function that lists many problems in one error."""

from collections.abc import Sequence

LISTED_OFFENDERS = 20


class InputError(ValueError):
    """A file, field or flag of the user is wrong. The message names it and says what would be right."""


def raise_if_any(heading: str, offenders: Sequence[str]) -> None:
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
