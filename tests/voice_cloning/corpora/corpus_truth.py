"""What is true of a small source that has the form of a public corpus."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CorpusTruth:
    """A source, and what a build must find in it.

    Attributes:
        flags: the words that ``build`` needs besides the source and the output, such as ``("--speaker_from", "file")``.
    """

    source: Path
    utterances: int
    speakers: int
    hours: float
    flags: tuple[str, ...] = ()
