"""Dataclass fields that are command-line flags, with facts about each flag."""

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, Literal

logger = logging.getLogger(__name__)

THE_DEFAULT = object()
"""Value of ``FlagFacts.before``: releases without the flag behaved like its default."""
GIVEN = "given"
"""Attribute of the parsed namespace: the names of the flags that the user gave."""


@dataclass(frozen=True)
class FlagFacts:
    """Facts about a flag.

    Attributes:
        in_identity: whether the value affects the result of a run. A resumed run must then have the same value.
        card: ``setting`` if the model card lists the value under "Training", ``kept`` if it is only in the facts of a
            card, ``private`` if the card leaves it out because it does not describe the result.
        per_call: whether the value belongs to one call of the program and is never taken from a run's record.
        per_machine: whether it names a file or folder of which each machine may have a copy of its own, in a place of
            its own. Of several processes, each may then have another value.
        before: the value that describes releases without the flag; ``THE_DEFAULT`` if it is the default.
        revision_flag: for a flag that may hold a hub id, the name of the flag that holds its revision.
        read: makes a value of a word of the command line, where the type of the field does not (``int | str``).
    """

    in_identity: bool = True
    card: Literal["setting", "kept", "private"] = "kept"
    per_call: bool = False
    per_machine: bool = False
    before: Any = THE_DEFAULT
    revision_flag: str | None = None
    read: Callable[[str], Any] | None = None


class FlagAction(argparse.Action):
    """Stores a flag's value and notes that the user gave it. A list that takes the place of another one is logged."""

    def __init__(self, *args: Any, facts: FlagFacts, **kwargs: Any) -> None:
        if facts.read is not None:
            kwargs["type"] = facts.read
        super().__init__(*args, **kwargs)
        self.facts = facts

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given, before = getattr(namespace, GIVEN, frozenset()), getattr(namespace, self.dest, None)
        if self.dest in given and isinstance(values, list) and values != before and os.environ.get("RANK", "0") == "0":
            was, now = (" ".join(map(str, words)) for words in (before, values))
            logger.warning(
                "--%s %s takes the place of %s, which was given before; all values go after one --%s",
                *(self.dest, now, was, self.dest),
            )
        setattr(namespace, self.dest, values)
        setattr(namespace, GIVEN, given | {self.dest})


def flag(default: Any, text: str, choices: Sequence[str] | None = None, **facts: Any) -> Any:
    """Return a dataclass field that ``HfArgumentParser`` turns into a flag.

    Args:
        default: the default value; ``MISSING`` makes the flag required.
        text: the help text.
        choices: the allowed values.
        facts: fields of :class:`FlagFacts`.
    """
    # argparse reads "%" as the start of a format.
    metadata = {"help": text.replace("%", "%%"), "action": FlagAction, "facts": FlagFacts(**facts)}
    if choices is not None:
        metadata["choices"] = list(choices)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def facts_of(flag_field: Field) -> FlagFacts:
    """Return the facts in a field made by :func:`flag`."""
    return flag_field.metadata["facts"]


def value_before(flag_field: Field) -> Any:
    """Return the value that describes releases without the flag; None for a required flag without ``before``."""
    before = facts_of(flag_field).before
    if before is not THE_DEFAULT:
        return before
    if flag_field.default_factory is not MISSING:
        return flag_field.default_factory()
    return None if flag_field.default is MISSING else flag_field.default
