"""Reads data sets that Hugging Face's ``datasets`` wrote to disk: Arrow folders and Parquet files.

pyarrow reads both batch by batch, so that the audio in the files is never in memory as a whole. ``datasets`` itself is
not needed. An audio column holds a structure of ``bytes`` and ``path``, or a path.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError
from boson_multimodal.progress import progress
from voice_cloning.corpora.forms import Columns
from voice_cloning.corpora.utterances import ONE_SPEAKER, Cell, Collection, Utterance, seconds_of

STATE_FILE = "state.json"
"""The file beside the Arrow files of one split that names them."""
PARQUET_BATCH_ROWS = 64
SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}
"""First bytes of an audio file -> suffix; a file with other first bytes is taken for MP3."""


def holds_data_set(folder: Path) -> bool:
    """Return whether ``folder`` holds Arrow files of ``save_to_disk`` or Parquet files."""
    return next(_data_files(folder), None) is not None


def read_data_set(source: Path, columns: Columns) -> Collection:
    """Read a folder of ``save_to_disk``, with all its splits, or a folder of Parquet files.

    Raises:
        InputError: if pyarrow is not installed, a file cannot be read, or a column is unknown.
    """
    collection = Collection("huggingface")
    with progress(title=f"reading {source.name}", unit="row") as bar:
        for path in _data_files(source):
            audio, text, speaker = columns.pick(_column_names(path), str(path))
            split = path.relative_to(source).with_suffix("").as_posix().replace("/", "-")
            wanted = list(dict.fromkeys([audio, text, *([speaker] if speaker else [])]))
            for row, values in enumerate(_rows(path, wanted)):
                cell = Cell(path, audio, row, f"{split}-{row:06d}")
                who = values[speaker] if speaker else ONE_SPEAKER
                _add(collection, source, cell, values[audio], _string(values[text]), _string(who))
                bar.update()
    return collection


def read_cells(cells: Sequence[Cell]) -> Iterator[tuple[Cell, bytes]]:
    """Yield each cell with the bytes of its audio, file by file."""
    by_file: dict[tuple[Path, str], dict[int, Cell]] = {}
    for cell in cells:
        by_file.setdefault((cell.path, cell.column), {})[cell.row] = cell
    for (path, column), wanted in by_file.items():
        for row, values in enumerate(_rows(path, [column])):
            if row in wanted:
                yield wanted[row], values[column]["bytes"]


def _add(collection: Collection, source: Path, cell: Cell, value: Any, text: str, speaker: str) -> None:
    """Add one row as an utterance; audio that the row itself holds is measured here, while it is in memory."""
    where = f"{cell.path}, row {cell.row}"
    held = value.get("bytes") if isinstance(value, dict) else None
    path = value.get("path") if isinstance(value, dict) else value
    if held:
        suffix = SUFFIXES.get(held[:4], ".mp3")
        try:
            seconds = seconds_of(held, f"column {cell.column}")
        except InputError as error:
            collection.problems.append(f"{where}: {error}")
            return
        named = replace(cell, name=cell.name + suffix)
        collection.add(Utterance(cell.name, named, text, speaker, where, seconds=seconds))
    elif isinstance(path, str) and path:
        collection.add(Utterance(cell.name, source / path, text, speaker, where))
    else:
        collection.problems.append(f"{where}: column {cell.column} holds neither bytes nor a path of an audio file")


def _string(value: Any) -> str:
    return "" if value is None else str(value)


def _data_files(folder: Path) -> Iterator[Path]:
    for state in sorted(folder.rglob(STATE_FILE)):
        try:
            files = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        except (ValueError, KeyError, TypeError):
            continue  # another program's state file
        yield from (state.parent / file["filename"] for file in files)
    yield from sorted(folder.rglob("*.parquet"))


def _column_names(path: Path) -> list[str]:
    with _opened(path) as file:
        return file.schema_arrow.names if path.suffix == ".parquet" else file.schema.names


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the values of ``columns`` in each row."""
    with _opened(path) as file:
        batches = file.iter_batches(PARQUET_BATCH_ROWS, columns=columns) if path.suffix == ".parquet" else file
        for batch in batches:
            found = [batch.column(name) for name in columns]
            for i in range(batch.num_rows):
                yield {name: column[i].as_py() for name, column in zip(columns, found, strict=True)}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file, or an Arrow stream, which is mapped into memory and not loaded.

    Raises:
        InputError: if pyarrow is not installed, or the file is not what its name says.
    """
    try:
        import pyarrow  # an optional package: needed only for such files
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: reading it needs pyarrow, which is not installed; pip install pyarrow") from error
    try:
        if path.suffix == ".parquet":
            with parquet.ParquetFile(path, memory_map=True) as file:
                yield file
        else:
            with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as reader:
                yield reader
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not readable as a data set of Hugging Face's datasets ({error})") from error
