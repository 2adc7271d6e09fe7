"""Says which tables of a folder are read: all of one corpus together, and none that lists what is no training data."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from boson_multimodal.errors import InputError, raise_if_any
from voice_cloning.corpora.columns import Columns, roles_of_header
from voice_cloning.corpora.known_corpora import is_table_of_common_voice, recognise
from voice_cloning.corpora.output_files import BUILT_FILES
from voice_cloning.corpora.source_files import (
    AUDIO_SUFFIXES,
    existing_audio,
    is_no_data,
    list_files,
    normal,
    read_lines,
)
from voice_cloning.corpora.subtitles import header_with_cues
from voice_cloning.corpora.table_lines import are_quoted_pairs, header_of

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".list", ".psv")
VALIDATED = "validated"
"""The table of Common Voice with all clips that listeners confirmed; train, dev and test are parts of it."""
PARTS_OF_VALIDATED = ("train", "dev", "test")
REFUSED = ("invalidated", "other")
"""Tables of Common Voice whose clips listeners refused, or have not judged yet."""
SPLIT_NAMES = ("train", "training", "valid", "validation", "val", "dev", "test", "eval")
"""Names of the tables of a corpus that was divided for training and evaluation."""
ORTHOGRAPHIC = "orthographic-transcript.txt"
"""The list of texts of the Arabic Speech Corpus, which has a second one in a folder of its own."""
PHONETIC = "phonetic"
"""How the list of phonemes begins that lies beside the list of texts in the Arabic Speech Corpus."""


@dataclass(frozen=True)
class Choice:
    """The tables that are read together.

    Attributes:
        tables: they have the same columns.
        facts: which were chosen and left, for the user.
    """

    tables: tuple[Path, ...]
    facts: list[str] = field(default_factory=list)


def choose_tables(folder: Path, columns: Columns, encoding: str | None = None) -> Choice:
    """Return the tables of a folder that are read. Those of a public corpus may also be in its subfolders.

    Raises:
        InputError: if there is none, or if several have different columns, so that they are no parts of one corpus.
    """
    tables, other = tables_in(folder), []
    if not tables:
        tables = known_tables_below(folder, encoding)
        other = [path for path in tables_below(folder) if path not in tables]
    if len(tables) == 1 and tables[0].name == ORTHOGRAPHIC:
        return _orthographic(folder, tables[0])
    if len(tables) == 1 and not other:
        return Choice((tables[0],))
    releases = [path for path in tables if is_table_of_common_voice(header_of(path, encoding) or ())]
    if not any(path.stem in (VALIDATED, *REFUSED) for path in releases):
        found = _one_group(folder, tables, columns, encoding)
    else:
        is_one = len({path.parent for path in releases}) == 1
        found = _common_voice({path.stem: path for path in releases}) if is_one else None
    if found is None:
        names = ", ".join(path.relative_to(folder).as_posix() for path in tables) or "none"
        raise InputError(f"{folder}: give the table itself as the source; tables in this folder: {names}")
    read, why = found
    facts = [why] if why else []
    if left := [path.relative_to(folder).as_posix() for path in (*tables, *other) if path not in read]:
        facts.append(f"tables that are not read: {', '.join(left)}")
    return Choice(tuple(read), facts)


def _orthographic(folder: Path, table: Path) -> Choice:
    """Return the list of the Arabic Speech Corpus with those of the same name in subfolders."""
    same = [table, *(path for path in list_files(folder).files if path.name == ORTHOGRAPHIC and path != table)]
    names = ", ".join(path.relative_to(folder).as_posix() for path in same)
    facts = [f"lists that are read together: {names}; the folder is kept in misc.split"] if len(same) > 1 else []
    return Choice(tuple(same), facts)


def known_tables_below(folder: Path, encoding: str | None = None) -> list[Path]:
    """Return the tables in subfolders that have the columns of a public corpus, or its list without a header."""
    lists = [path for path in list_files(folder).files if path.name == ORTHOGRAPHIC]
    if lists:  # the first one; those in its subfolders are read with it
        return [min(lists, key=lambda path: len(path.parts))]
    return [path for path in tables_below(folder) if recognise(header_of(path, encoding) or ())]


def tables_below(folder: Path) -> list[Path]:
    """Return the tables in subfolders."""
    return [path for path in list_files(folder).files if path.suffix.lower() in TABLE_SUFFIXES]


def _common_voice(own: Mapping[str, Path]) -> tuple[list[Path], str] | None:
    """Return the tables of a release of Common Voice that listeners confirmed; None if there is none.

    Args:
        own: name without its suffix -> table.
    """
    if VALIDATED in own:
        return [own[VALIDATED]], f"{own[VALIDATED].name} is read; train, dev and test are parts of it"
    parts = [own[name] for name in PARTS_OF_VALIDATED if name in own]
    names = ", ".join(path.name for path in parts)
    return (parts, f"tables that are read together: {names}") if parts else None


def _one_group(
    folder: Path, tables: Sequence[Path], columns: Columns, encoding: str | None
) -> tuple[list[Path], str] | None:
    """Return the tables that name clips and texts, if all of these have the same columns; None if not.

    Raises:
        InputError: naming what is missing in each table that is called like a part of a corpus, or has the columns of
            the others, but does not name clips and texts.
    """
    headers = {path: header_of(path, encoding) for path in tables}
    if None in headers.values():
        return None  # lists without a header may be anything
    groups: dict[tuple[object, ...], list[Path]] = defaultdict(list)
    problems = []
    for path, header in headers.items():
        problem = _problem(header_with_cues(header or ()), path, columns)
        if problem is None:
            groups[(path.suffix.lower(), *sorted(name.casefold() for name in header or ()))].append(path)
        elif path.stem.casefold() in SPLIT_NAMES:
            problems.append(problem.replace("\n", "\n  "))
    raise_if_any(f"{folder}: tables of a corpus, by their names, whose columns are not right", problems)
    if len(groups) > 1:
        raise InputError(f"{folder}: {_differences(folder, list(groups.values()), headers)}")
    if not groups:
        return None
    (read,) = groups.values()
    names = ", ".join(path.relative_to(folder).as_posix() for path in read)
    together = f"tables with the same columns, which are read together: {names}; the name of each is kept in misc.split"
    return read, together if len(read) > 1 else f"{names} is the only table that names clips and texts"


def _differences(folder: Path, groups: Sequence[Sequence[Path]], headers: Mapping[Path, tuple[str, ...] | None]) -> str:
    """Return how the tables that name clips and texts differ from most of them in their columns, for the user."""
    names = ", ".join(path.relative_to(folder).as_posix() for path in headers)
    usual = max(groups, key=len)[0]
    lines = [f"give the table itself as the source; tables in this folder: {names}; those that name clips and texts "
             "are read together if they have the same columns, but these differ:"]  # fmt: skip
    for path in (path for group in groups for path in group if usual not in group):
        own, other = headers[path] or (), headers[usual] or ()
        lacks = [name for name in other if name.casefold() not in map(str.casefold, own)]
        more = [name for name in own if name.casefold() not in map(str.casefold, other)]
        said = [f"lacks {', '.join(lacks)}"] if lacks else []
        said += [f"has {', '.join(more)} instead" if lacks else f"also has {', '.join(more)}"] if more else []
        what = " and ".join(said) or f"is a second list, in another format than {usual.name}"
        lines.append(f"{path.relative_to(folder).as_posix()} {what}" + (f" (unlike {usual.name})" if said else ""))
    return "\n  ".join(lines)


def _problem(header: Sequence[str], path: Path, columns: Columns) -> str | None:
    """Return why a table does not name clips and texts; None if it does."""
    try:
        roles_of_header(header, columns if columns.speaker_from else replace(columns, speaker_from="one"), str(path))
    except InputError as error:
        return str(error)
    return None


def tables_in(folder: Path) -> list[Path]:
    """Return the files of a folder whose suffix is that of a table; without these, the text files that are lists."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not is_no_data(path.name))
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be entered ({error.strerror})") from error
    found = [path for path in files if path.suffix.lower() in TABLE_SUFFIXES]
    found = [path for path in found if path.name not in BUILT_FILES] or found
    spoken = {normal(path.stem) for path in files if path.suffix.lower() in AUDIO_SUFFIXES}
    texts = [path for path in files if path.suffix.lower() == ".txt" and normal(path.stem) not in spoken]
    lists = [path for path in texts if names_audio(path)]
    return found or [path for path in lists if not path.stem.casefold().startswith(PHONETIC)] or lists


def names_audio(path: Path) -> bool:
    """Return whether the first line of a text file names an audio file that exists, in a field of its own."""
    lines = read_lines(path).lines[:1]
    if lines and are_quoted_pairs(lines):
        return True
    fields = re.split(r"[\t,;|]", lines[0].text) if lines else []
    return len(fields) > 1 and any(existing_audio(path.parent, name.strip()) for name in fields)
