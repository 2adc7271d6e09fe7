"""Data sets that Hugging Face's ``datasets`` wrote to disk -> utterances: Arrow folders and Parquet files.

Both are read with pyarrow, batch by batch, so that audio held in the files is never in memory as a whole; ``datasets``
itself is not needed. An audio column is a structure of ``bytes`` and ``path``, or a path.
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
"""Beside the Arrow files of one split: says which these are."""
PARQUET_BATCH_ROWS = 64
SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}
"""First bytes of a file -> suffix; what begins otherwise is taken for MP3."""


def holds_data_set(folder: Path) -> bool:
    """Whether ``folder`` holds Arrow files of ``save_to_disk``, or Parquet files."""
    return next(_data_files(folder), None) is not None


def read_data_set(source: Path, columns: Columns) -> Collection:
    """A folder of ``save_to_disk`` (all its splits) or of Parquet files.

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
                _add(collection, source, cell, values[audio], _words(values[text]), _words(who))
                bar.update()
    return collection


def read_cells(cells: Sequence[Cell]) -> Iterator[tuple[Cell, bytes]]:
    """The audio of cells, file by file."""
    by_file: dict[tuple[Path, str], dict[int, Cell]] = {}
    for cell in cells:
        by_file.setdefault((cell.path, cell.column), {})[cell.row] = cell
    for (path, column), wanted in by_file.items():
        for row, values in enumerate(_rows(path, [column])):
            if row in wanted:
                yield wanted[row], values[column]["bytes"]


def _add(collection: Collection, source: Path, cell: Cell, value: Any, text: str, speaker: str) -> None:
    """One row as an utterance; its audio is measured here, as long as it is at hand."""
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


def _words(value: Any) -> str:
    return "" if value is None else str(value)


def _data_files(folder: Path) -> Iterator[Path]:
    for state in sorted(folder.rglob(STATE_FILE)):
        try:
            files = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        except (ValueError, KeyError, TypeError):
            continue  # some other program's state
        yield from (state.parent / file["filename"] for file in files)
    yield from sorted(folder.rglob("*.parquet"))


def _column_names(path: Path) -> list[str]:
    with _opened(path) as file:
        return file.schema_arrow.names if path.suffix == ".parquet" else file.schema.names


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Each row's values of ``columns``."""
    with _opened(path) as file:
        batches = file.iter_batches(PARQUET_BATCH_ROWS, columns=columns) if path.suffix == ".parquet" else file
        for batch in batches:
            found = [batch.column(name) for name in columns]
            for i in range(batch.num_rows):
                yield {name: column[i].as_py() for name, column in zip(columns, found, strict=True)}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file, or the reader of an Arrow stream, which is mapped and not loaded.

    Raises:
        InputError: if pyarrow is not installed, or the file is not what its name says.
    """
    try:
        import pyarrow  # only those who have such files need it
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: pyarrow reads such files and is not installed; pip install pyarrow") from error
    try:
        if path.suffix == ".parquet":
            with parquet.ParquetFile(path, memory_map=True) as file:
                yield file
        else:
            with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as reader:
                yield reader
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not readable as a data set of datasets' ({error})") from error
