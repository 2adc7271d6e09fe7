"""Reads tables: CSV, TSV, lists with bars and no header, JSON lines and JSON lists.

One line is one row, so a wrong line never changes what another one says. A line with more or fewer fields than the
first line is a problem. The csv module of Python splits the lines, in its strict form.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.strict_json import parse_json
from voice_cloning.corpora.columns import (
    AUDIO_COLUMNS,
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    Columns,
    Roles,
    WrongValue,
    cut_in,
    roles_of_header,
    roles_of_list,
    speaker_in,
    text_in,
    unread_times,
)
from voice_cloning.corpora.source_files import (
    AUDIO_SUFFIXES,
    Line,
    Lines,
    control_problem,
    existing_audio,
    find_audio,
    is_no_data,
    name_of,
    normal,
    read_lines,
)
from voice_cloning.corpora.utterances import Channel, Collection, Utterance, speakers_of

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".list", ".psv")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
LOOKED_AT = 50
"""Lines that decide the delimiter."""


@dataclass(frozen=True)
class Table:
    """The rows of a table as they are written.

    Attributes:
        header: the names of the columns; for a list without a header 1, 2, 3...
        has_header: whether the table names its columns itself.
        rows: (place, column -> value).
        problems: (place, what is wrong) of each line that is no row.
        facts: the delimiter, encoding and the like, for the user.
    """

    header: tuple[str, ...]
    has_header: bool
    rows: list[tuple[str, dict[str, Any]]]
    problems: list[tuple[str, str]]
    facts: list[str] = field(default_factory=list)


def read_table(source: Path, columns: Columns, encoding: str | None = None) -> Collection:
    """Read a table with or without a header, such as Common Voice's, LJSpeech's or a NeMo manifest.

    Raises:
        InputError: if the table cannot be read, or its columns cannot be told apart.
    """
    path = source if source.is_file() else only_table(source)
    table = open_table(path, columns, encoding)
    collection = Collection("table", table=path)
    collection.problems += table.problems
    collection.facts += table.facts
    if not table.rows:
        return collection
    try:
        roles = _roles(path, table, columns)
    except InputError as error:
        wrong = [f"{where}: {problem}" for where, problem in table.problems]
        raise_if_any(f"{error}\n{path}: these lines are wrong too", wrong)
        raise
    collection.facts += roles.facts(table.header)
    collection.faults += unread_times(table.header, roles, [row for _, row in table.rows])
    add_rows(collection, table.rows, roles, path.parent)
    is_one = len(speakers_of(collection.utterances)) == 1
    collection.speaker_is_guessed = columns.speaker_from is None and not table.has_header and is_one
    if roles.speaker is None and columns.speaker_from is None:  # one voice, which needs a name
        name = path.parent.resolve().name
        collection.utterances = [replace(utterance, speaker=name) for utterance in collection.utterances]
    return collection


def _roles(path: Path, table: Table, columns: Columns) -> Roles:
    if table.has_header:
        return roles_of_header(table.header, columns, str(path))
    rows = [row for _, row in table.rows]
    return roles_of_list(rows, columns, str(path), lambda name: existing_audio(path.parent, name) is not None)


def add_rows(collection: Collection, rows: Sequence[tuple[str, dict[str, Any]]], roles: Roles, folder: Path) -> None:
    """Add the rows of a table as utterances. The id of a cut holds its time, because a file may have many cuts."""
    for where, row in rows:
        try:
            name = _audio_name(row.get(roles.audio), roles.audio)
            offset, duration, channel = cut_in(row, roles)
            text, speaker = text_in(row, roles), speaker_in(row, roles, name)
        except WrongValue as error:
            collection.refuse(where, str(error))
            continue
        path = find_audio(folder, name)
        if re.match(r"[A-Za-z]:[\\/]", name) and not os.path.exists(path):
            collection.refuse(where, f"{name}: no such file: a path of Windows; write it relative to {folder}")
            continue
        utterance_id = name_of(name)
        if offset is not None or duration is not None:
            utterance_id += f"_{offset or 0:.3f}" + ("" if duration is None else f"_{(offset or 0) + duration:.3f}")
        audio: Path | Channel = path
        if channel is not None:
            utterance_id += f"_channel{channel}"
            audio = Channel(path, channel, clip_file_name(len(collection.utterances), utterance_id))
        collection.add(Utterance(utterance_id, audio, text, speaker, where, offset, duration))


def clip_file_name(number: int, utterance_id: str) -> str:
    """Return the name of a file for an utterance; the number keeps names apart that differ in signs only."""
    return f"{number:06d}-{re.sub(r'[^0-9A-Za-z._-]+', '-', utterance_id)[-80:]}.wav"


def _audio_name(value: Any, column: str) -> str:
    if isinstance(value, dict):  # the Audio column of Hugging Face's datasets
        value = value.get("path")
    if value is None or value == "":
        raise WrongValue(f"no audio file is named in column {column}")
    if not isinstance(value, str):
        raise WrongValue(f"{column} must be the name of an audio file, not {repr(value)[:60]}")
    name = value.strip()
    if reason := control_problem(name):
        raise WrongValue(f"{column}: {reason}")
    return name


def only_table(folder: Path) -> Path:
    """Return the one table in a folder.

    Raises:
        InputError: if there is none or several.
    """
    tables = tables_in(folder)
    if len(tables) != 1:
        found = ", ".join(p.name for p in tables) or "none"
        raise InputError(f"{folder}: give the table itself as the source; tables in this folder: {found}")
    return tables[0]


def tables_in(folder: Path) -> list[Path]:
    """Return the files of a folder whose suffix is that of a table; without these, the text files that are lists."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not is_no_data(path.name))
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be entered ({error.strerror})") from error
    found = [path for path in files if path.suffix.lower() in TABLE_SUFFIXES]
    spoken = {normal(path.stem) for path in files if path.suffix.lower() in AUDIO_SUFFIXES}
    texts = [path for path in files if path.suffix.lower() == ".txt" and normal(path.stem) not in spoken]
    return found or [path for path in texts if names_audio(path)]


def names_audio(path: Path) -> bool:
    """Return whether the first line of a text file names an audio file that exists, in a field of its own."""
    lines = read_lines(path).lines[:1]
    fields = re.split(r"[\t,;|]", lines[0].text) if lines else []
    return len(fields) > 1 and any(existing_audio(path.parent, name.strip()) for name in fields)


def open_table(path: Path, columns: Columns, encoding: str | None = None) -> Table:
    """Read the rows of a table. JSON is told by its first character, not by the file's name.

    Raises:
        InputError: if the file cannot be read, is empty, or its first line has one field only.
    """
    found = _lines_of(path, encoding)
    facts = [f"encoding: {found.encoding}" + (f"; blank lines: {found.blank}" if found.blank else "")]
    if _is_json(path, found.lines):
        table = _json_table(path, found.lines)
    else:
        table = _delimited_table(path, found.lines, columns)
    return replace(table, problems=found.problems + table.problems, facts=table.facts + facts)


def names_its_columns(path: Path, columns: Columns, encoding: str | None = None) -> bool:
    """Return whether the first line of a table names its columns; rows of JSON always do.

    Raises:
        InputError: as :func:`open_table`.
    """
    lines = _lines_of(path, encoding).lines
    return _is_json(path, lines) or _shape(path, _without_note(lines), columns).has_header


def _lines_of(path: Path, encoding: str | None) -> Lines:
    found = read_lines(path, encoding)
    if not found.lines:
        raise_if_any(f"{path}: none of its lines can be read", [f"{where}: {what}" for where, what in found.problems])
        raise InputError(f"{path}: is empty; it must hold a line for each clip")
    return found


def _is_json(path: Path, lines: Sequence[Line]) -> bool:
    return lines[0].text.lstrip()[0] in "{[" or path.suffix.lower() in JSON_SUFFIXES


def _without_note(lines: Sequence[Line]) -> Sequence[Line]:
    """Return the lines without a first one such as ``sep=;``, a note of Excel to itself."""
    return lines[1:] if len(lines) > 1 and re.fullmatch('"?sep=.?"?', lines[0].text.strip()) else lines


@dataclass(frozen=True)
class _Shape:
    """How the lines of a table are divided, as its first lines show.

    Attributes:
        header: the fields of the first line.
        has_header: whether these are the names of the columns.
        all_quoted: whether every field is in quotes, also where no rule asks for it.
    """

    delimiter: str
    header: tuple[str, ...]
    has_header: bool
    all_quoted: bool


def _shape(path: Path, lines: Sequence[Line], columns: Columns) -> _Shape:
    delimiter = _delimiter(path, lines)
    first = _literal(lines[0].text, delimiter)
    all_quoted = all(re.fullmatch('".*"', name) for name in first)
    header = tuple(name.strip().strip('"').strip() for name in first)
    return _Shape(delimiter, header, _is_header(path, header, delimiter, columns), all_quoted)


def _delimited_table(path: Path, lines: Sequence[Line], columns: Columns) -> Table:
    lines = _without_note(lines)
    shape = _shape(path, lines, columns)
    header, has_header, delimiter, all_quoted = shape.header, shape.has_header, shape.delimiter, shape.all_quoted
    widths = Counter(len(_fields(line.text, delimiter, None, all_quoted)) for line in lines)
    width = len(header) if has_header else widths.most_common(1)[0][0]
    header = header if has_header else tuple(str(i + 1) for i in range(width))
    rows, problems, odd = [], [], []
    for line in lines[1:] if has_header else lines:
        fields = _fields(line.text, delimiter, width, all_quoted)
        if len(fields) != width:
            problems.append((line.where, _width_problem(len(fields), width, has_header, delimiter)))
            continue
        if _strict(line.text, delimiter) is None:
            odd.append(line.number)
        rows.append((line.where, dict(zip(header, [value.strip() for value in fields], strict=True))))
    quoting = "double quotes" if any('"' in line.text for line in lines) else "none"
    facts = [
        f"table: {path.name}, " + ("its first line names the columns" if has_header else f"{width} columns, no header"),
        f"delimiter: {DELIMITERS[delimiter]}; quoting: {quoting}",
    ]
    if odd:
        shown = ", ".join(map(str, odd[:5])) + (", ..." if len(odd) > 5 else "")
        facts.append(f"lines with single quotation marks, which stay in the text: {len(odd)} ({shown})")
    return Table(header, has_header, rows, problems, facts)


def _width_problem(fields: int, width: int, has_header: bool, delimiter: str) -> str:
    name = DELIMITERS[delimiter]
    expected = f"the first line names {width} columns" if has_header else f"most lines have {width}"
    more = f"put a text with a {name} into double quotes" if delimiter in ",;" else f"remove a {name} from the text"
    less = "write all fields, empty ones too, and each row on one line"
    return f"has {fields} fields, but {expected}; {more if fields > width else less}"


def _delimiter(path: Path, lines: Sequence[Line]) -> str:
    """Return the delimiter that most of the lines have as often as the first line, and that parts file names."""

    def merit(delimiter: str) -> tuple[float, float, int]:
        shown = [_fields(line.text, delimiter, None, False) for line in lines[:LOOKED_AT]]
        names = {name.strip().strip('"').casefold() for name in shown[0]}
        usual = len(names & {*AUDIO_COLUMNS, *TEXT_COLUMNS, *SPEAKER_COLUMNS})
        known = sum(any(existing_audio(path.parent, value.strip()) for value in row) for row in shown)
        equal = sum(len(row) == len(shown[0]) for row in shown)
        return usual + known / len(shown), equal / len(shown), len(shown[0])

    present = [delimiter for delimiter in DELIMITERS if delimiter in lines[0].text]
    if not present:
        raise InputError(
            f"{lines[0].where}: holds no tab, comma, semicolon or bar, so it is no row of a table; found: "
            f"{lines[0].text[:60]!r}"
        )
    return max(present, key=merit)


def _is_header(path: Path, first: Sequence[str], delimiter: str, columns: Columns) -> bool:
    """Return whether the first line names columns: usual ones, the user's, or none that is a file or a text."""
    names = {name.casefold() for name in first}
    if names & {*AUDIO_COLUMNS, *TEXT_COLUMNS} or {columns.audio, columns.text, columns.speaker_from} & {*first}:
        return True
    if any(existing_audio(path.parent, name) for name in first):
        return False
    return delimiter != "|" and path.suffix.lower() != ".list"  # lists with bars have no header, as in LJSpeech


def _literal(line: str, delimiter: str) -> list[str]:
    return line.split(delimiter)


def _strict(line: str, delimiter: str) -> list[str] | None:
    """Return the fields of a line with correct double quotes, or None if its quotes are not correct."""
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=delimiter in ",;"))
    except csv.Error:
        return None


def _fields(line: str, delimiter: str, width: int | None, all_quoted: bool) -> list[str]:
    """Return the fields of a line; if their number is not ``width``, the line is no row.

    With commas, double quotes have their usual meaning. With tabs and bars, most programs write a quotation mark as it
    is; only a field with doubled marks or with the delimiter inside was quoted. A line whose quotes are not correct is
    taken as it is written.
    """
    literal, quoted = _literal(line, delimiter), _strict(line, delimiter)
    if quoted is None:
        return literal
    if delimiter in ",;" or all_quoted:
        return quoted
    if len(literal) == (width or len(literal)):
        return [_unquoted(value) if '""' in value.strip()[1:-1] else value for value in literal]
    return quoted


def _unquoted(value: str) -> str:
    """Return the content of a quoted field; a field that is not correctly quoted as it is."""
    found = _strict(value.strip(), "\x1f")
    return found[0] if found else value


def _json_table(path: Path, lines: Sequence[Line]) -> Table:
    """Read JSON lines, or one JSON list of rows."""
    rows, problems = [], []
    for where, value in _json_values(path, lines, problems):
        if isinstance(value, dict):
            rows.append((where, value))
        else:
            problems.append((where, "it must be a JSON object of column: value"))
    if any("messages" in row for _, row in rows):
        raise InputError(f"{path}: holds ChatML records already; give it to check, encode and the trainer")
    header = tuple(dict.fromkeys(name for _, row in rows for name in row))
    return Table(header, True, rows, problems, [f"table: {path.name}, JSON"])


def _json_values(path: Path, lines: Sequence[Line], problems: list[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
    if lines[0].text.lstrip()[0] == "[":
        try:
            values = parse_json("\n".join(line.text for line in lines))
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error})") from error
        yield from ((f"{path}, entry {i}", value) for i, value in enumerate(values, 1))
        return
    for line in lines:
        try:
            yield line.where, parse_json(line.text)
        except ValueError as error:
            problems.append((line.where, f"not JSON ({error})"))
