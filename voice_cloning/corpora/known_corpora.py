"""The public corpora of Arabic speech that are told by their columns, and what their licences allow."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownCorpus:
    """A public corpus.

    Attributes:
        name: its name.
        licence: the licence that its publisher names.
        commercial_use: whether the licence allows commercial use.
    """

    name: str
    licence: str
    commercial_use: bool
