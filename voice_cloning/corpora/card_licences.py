"""The card beside training data: reads its licences, and carries it along to what is made of the data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boson_multimodal.chatml_records import read_text
from boson_multimodal.errors import visible
from voice_cloning.corpora.output_files import has_other_content, write_differing

DATA_CARD = "README.md"
BUILT_CARD = "# Training data for voice cloning from"
"""How the card begins that ``build`` writes."""
NONE_KNOWN = "none is known"
"""How a licence begins that no one has stated."""
_FACT = re.compile(r"\s*(?:[-*]\s+)?\**(corpus|licen[cs]e|about this licen[cs]e)\**:\**\s+(\S.*)", re.IGNORECASE)
_NOT_COMMERCIAL = re.compile(
    r"(?<![a-z])(?:nc(?![a-z])|non[- ]?commercial|not for commercial|no commercial use|research (?:use |purposes )?only"
    r"|commercial use (?:is )?(?:not|forbidden|prohibited))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class DataLicence:
    """A licence that a card names.

    Attributes:
        licence: its name, who names it, and its limits.
        corpus: the corpus that has it; None if the card names none.
        note: what else is to be known about it; None if nothing.
    """

    licence: str
    corpus: str | None = None
    note: str | None = None

    @property
    def text(self) -> str:
        """All of it in one line."""
        corpus = "" if self.corpus is None else f"{self.corpus}: "
        return f"{corpus}{self.licence}" + ("" if self.note is None else f"; {self.note}")

    @property
    def forbids_commercial_use(self) -> bool:
        """Whether its name or its limits say that commercial use is not allowed."""
        return _NOT_COMMERCIAL.search(self.licence) is not None


def has_card(data_path: Path) -> bool:
    """Return whether a card lies beside a file, or in a folder of prepared data."""
    return _card_beside(data_path).is_file()


def licences_beside(data_path: Path) -> list[DataLicence]:
    """Return the licences on the card beside a file, or in a folder of prepared data; none if no card names one.

    Lines such as ``- licence: CC BY 4.0`` name one, and ``license: cc-by-4.0`` in the metadata of a card of the hub. A
    card that cannot be read is told in place of a licence, because it may name one.
    """
    card = _card_beside(data_path)
    if not card.is_file():
        return []
    try:
        content = card.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        return [DataLicence(f"not known, because the card {card.name} cannot be read ({error.strerror})")]
    return list(dict.fromkeys(_licences(content)))


def licences_of_source(source: Path) -> list[str]:
    """Return the licences that the card of a source names: the README of a repository of the hub, or of a folder.

    A card that ``build`` wrote into the folder of its source is none of the source.
    """
    folder = source if source.is_dir() else source.parent
    folder = folder.resolve()
    if folder.name == "data" and not (folder / DATA_CARD).is_file():  # the folder of the Parquet files of a repository
        folder = folder.parent
    card = folder / DATA_CARD
    if not card.is_file():
        return []
    try:
        if card.read_bytes().startswith(BUILT_CARD.encode()):
            return []
    except OSError:
        pass  # a card that cannot be read is told below
    return list(dict.fromkeys(found.licence for found in licences_beside(card)))


def _card_beside(data_path: Path) -> Path:
    return (data_path if data_path.is_dir() else data_path.parent) / DATA_CARD


def _licences(content: str) -> list[DataLicence]:
    """Return the licences of a card, which may be several cards one after the other."""
    found: list[DataLicence] = []
    corpus = None
    for line in content.splitlines():
        if line.startswith("# "):
            corpus = None
        fact = _FACT.fullmatch(visible(line.rstrip()))
        if fact is None:
            continue
        name, value = fact[1].lower(), fact[2].strip("\"' ")
        if name == "corpus":
            corpus = re.sub(", told by its (?:columns|content)$", "", value)
        elif name.startswith("about"):
            if found:
                found[-1] = DataLicence(found[-1].licence, found[-1].corpus, value)
        elif not value.startswith(NONE_KNOWN):
            found.append(DataLicence(value, corpus))
    return found


def carried_card(files: Sequence[Path], told: str) -> bytes | None:
    """Return the card for files that were made of others: the cards beside those, and what was done.

    Args:
        files: the files of training data that were read.
        told: a section that says what was done.

    Returns:
        None if no card lies beside any of the files.

    Raises:
        InputError: if a card is not readable.
    """
    cards = [path for path in map(_card_beside, files) if path.is_file()]
    texts = list(dict.fromkeys(read_text(card).rstrip() for card in dict.fromkeys(cards)))
    return ("\n\n".join([*texts, told]) + "\n").encode("utf-8", errors="backslashreplace") if texts else None


def copy_card(data_path: Path, folder: Path) -> str | None:
    """Copy the card beside a file into the folder of what was made of it. One that is there already stays.

    Returns:
        A message if the card was not copied: the folder has one with other content, or it cannot be read.

    Raises:
        InputError: if the folder's card cannot be read or written.
    """
    card = _card_beside(data_path)
    if not card.is_file():
        return None
    try:
        content = card.read_bytes()
    except OSError as error:
        return f"{card}: cannot be read ({error.strerror}), so {folder} gets no card; copy it there yourself"
    if has_other_content(folder / DATA_CARD, content):
        return f"{folder / DATA_CARD} stays; it differs from {card}. Remove it and give this command again to copy that"
    write_differing(folder, [(DATA_CARD, content)])
    return None
