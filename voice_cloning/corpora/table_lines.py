"""Reads the lines of tables: CSV, TSV, lists with bars and no header, quoted pairs, JSON lines and JSON lists.

One line is one row, so a wrong line never changes what another one says. A line with more or fewer fields than the
first line is a problem. The csv module of Python splits the lines, in its strict form.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.strict_json import parse_json
from voice_cloning.corpora.columns import AUDIO_COLUMNS, TEXT_COLUMNS, Columns
from voice_cloning.corpora.source_files import Line, Lines, existing_audio, read_lines
from voice_cloning.corpora.speaker_sources import SPEAKER_COLUMNS

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
HEADER_BYTES = 1 << 16
"""Bytes that are read of a table whose columns alone are asked for."""
LOOKED_AT = 50
"""Lines that decide the delimiter."""
QUOTED_PAIR = re.compile(r'\s*"([^"]+)"\s+"(.*)"\s*')
"""A line such as ``"ARA NORM  0002.wav" "text"``, the form of the Arabic Speech Corpus."""


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


def open_table(path: Path, columns: Columns, encoding: str | None = None) -> Table:
    """Read the rows of a table. JSON is told by its first character, not by the file's name.

    Raises:
        InputError: if the file cannot be read, is empty, or its first line has one field only.
    """
    found = _lines_of(path, encoding)
    facts = [f"encoding: {found.encoding}" + (f"; blank lines: {found.blank}" if found.blank else "")]
    if _is_json(path, found.lines):
        table = _json_table(path, found.lines)
    elif are_quoted_pairs(found.lines):
        table = _pairs_table(path, found.lines)
    else:
        table = _delimited_table(path, found.lines, columns)
    return replace(table, problems=found.problems + table.problems, facts=table.facts + facts)


def names_its_columns(path: Path, columns: Columns, encoding: str | None = None) -> bool:
    """Return whether the first line of a table names its columns; rows of JSON always do.

    Raises:
        InputError: as :func:`open_table`.
    """
    lines = _lines_of(path, encoding).lines
    if are_quoted_pairs(lines):
        return False
    return _is_json(path, lines) or _shape(path, _without_note(lines), columns).has_header


def header_of(path: Path, encoding: str | None = None) -> tuple[str, ...] | None:
    """Return the names of the columns of a table; None if its first line does not name them, or cannot be read."""
    try:
        lines = read_lines(path, encoding, most_bytes=HEADER_BYTES).lines
        if not lines or are_quoted_pairs(lines):
            return None
        if _is_json(path, lines):
            first = next(_json_values(path, lines[:1], []), ("", None))[1]
            return tuple(first) if isinstance(first, dict) else None
        shape = _shape(path, _without_note(lines), Columns())
    except InputError:
        return None
    return shape.header if shape.has_header else None


def are_quoted_pairs(lines: Sequence[Line]) -> bool:
    """Return whether most of the first lines are a clip's name and its text, each in quotes, with a space between."""
    seen = lines[:LOOKED_AT]
    return 2 * sum(QUOTED_PAIR.fullmatch(line.text) is not None for line in seen) > len(seen)


def _pairs_table(path: Path, lines: Sequence[Line]) -> Table:
    rows, problems = [], []
    for line in lines:
        if pair := QUOTED_PAIR.fullmatch(line.text):
            rows.append((line.where, {"1": pair[1], "2": pair[2].strip()}))
        else:
            problems.append((line.where, 'it must hold: "name of the clip" "text"'))
    return Table(("1", "2"), False, rows, problems, [f"table: {path.name}, quoted pairs of a clip and its text"])


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
