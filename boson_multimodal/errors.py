"""The error that a user can mend, and the one way to list many of them."""

from collections.abc import Sequence

LISTED_OFFENDERS = 20


class InputError(ValueError):
    """A file, field or flag that the user gave is wrong. The message says which, and what would be right."""


def raise_if_any(heading: str, offenders: Sequence[str]) -> None:
    """Raise one :class:`InputError` that counts ``offenders`` and lists the first twenty.

    Raises:
        InputError: if ``offenders`` is not empty.
    """
    if not offenders:
        return
    shown = [f"  {offender}" for offender in offenders[:LISTED_OFFENDERS]]
    if len(offenders) > LISTED_OFFENDERS:
        shown.append(f"  ... and {len(offenders) - LISTED_OFFENDERS} more")
    raise InputError("\n".join([f"{heading} ({len(offenders)}):", *shown]))
