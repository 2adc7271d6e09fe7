"""Reads the audio of utterances that is inside files of a data set: cells of tables and members of archives."""

from collections.abc import Iterator, Sequence
from itertools import chain

from voice_cloning.corpora.arrow import read_cells
from voice_cloning.corpora.utterances import Cell, Member
from voice_cloning.corpora.webdataset import read_members

HELD = (Cell, Member)
"""The types of such audio."""


def read_held(audio: Sequence[Cell | Member]) -> Iterator[tuple[Cell | Member, bytes]]:
    """Yield each cell and member with the bytes of its audio file, file by file, one at a time in memory."""
    cells = [held for held in audio if isinstance(held, Cell)]
    members = [held for held in audio if isinstance(held, Member)]
    return chain(read_cells(cells), read_members(members))
