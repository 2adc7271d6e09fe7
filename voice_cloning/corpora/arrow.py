"""Reads data sets that Hugging Face's ``datasets`` wrote to disk: Arrow folders and Parquet files.

pyarrow reads both batch by batch, so that the audio in the files is never in memory as a whole. ``datasets`` itself is
not needed. An audio column holds a structure of ``bytes`` and ``path``, one of ``array`` and ``sampling_rate``, a path,
or bare samples with their rate in a column ``sampling_rate``.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from boson_multimodal.errors import InputError
from boson_multimodal.progress import progress
from voice_cloning.corpora.attributes import attributes_in
from voice_cloning.corpora.cell_values import WrongValue
from voice_cloning.corpora.columns import (
    AUDIO_COLUMNS,
    Columns,
    Roles,
    cut_in,
    roles_of_header,
    speaker_in,
    text_in,
)
from voice_cloning.corpora.known_corpora import recognise
from voice_cloning.corpora.source_files import find_audio, list_files
from voice_cloning.corpora.speaker_sources import NotOneVoice
from voice_cloning.corpora.utterances import Cell, Collection, Utterance, seconds_of

STATE_FILE = "state.json"
"""The file beside the Arrow files of one split that names them."""
RATE_COLUMN = "sampling_rate"
PARQUET_BATCH_ROWS = 64
SAMPLE_TYPES = ("float", "double", "halffloat", "int16", "int32")
LFS_POINTER = b"version https://git-lfs"
"""The first bytes of what Git leaves in place of a large file that was not downloaded."""
SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}
"""First bytes of an audio file -> suffix; a file with other first bytes is taken for MP3."""


def holds_data_set(files: Sequence[Path]) -> bool:
    """Return whether there are Arrow files of ``save_to_disk`` or Parquet files among these."""
    return bool(_data_files(files))


def read_data_set(source: Path, columns: Columns, encoding: str | None = None) -> Collection:
    """Read a folder of ``save_to_disk``, with all its splits, or a folder of Parquet files.

    Raises:
        InputError: if pyarrow is not installed, a file cannot be read, or a column is unknown.
    """
    collection = Collection("huggingface")
    listing = list_files(source)
    collection.faults += listing.faults
    collection.aside += listing.aside
    seen: dict[tuple[str, ...], list[str]] = {}
    with progress(title=f"reading {source.name}", unit="row") as bar:
        root = source.parent if source.is_file() else source
        for path in _data_files(listing.files):
            header, with_audio = _header(path)
            wanted = columns if columns.audio else replace(columns, audio=with_audio)
            roles = roles_of_header(header, wanted, str(path))
            collection.speaker_is_guessed |= roles.speaker is None and columns.speaker_from is None
            seen.setdefault(tuple(roles.facts(header)), []).append(path.relative_to(root).as_posix())
            rate_column = RATE_COLUMN if RATE_COLUMN in header else None
            split = path.relative_to(root).with_suffix("").as_posix().replace("/", "-")
            collection.corpus = collection.corpus or recognise(header)
            read = dict.fromkeys((*roles.columns, *([rate_column] if rate_column else [])))
            for row, values in enumerate(_rows(path, list(read))):
                cell = Cell(path, roles.audio, row, f"{split}-{row:06d}", rate_column)
                _add(collection, root, cell, values, roles)
                bar.update()
    for facts, files in seen.items():
        shown = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        collection.facts += [f"files: {shown}", *facts]
    return collection


def read_cells(cells: Sequence[Cell]) -> Iterator[tuple[Cell, bytes]]:
    """Yield each cell with the bytes of its audio file, file by file."""
    by_file: dict[tuple[Path, str, str | None], dict[int, Cell]] = {}
    for cell in cells:
        by_file.setdefault((cell.path, cell.column, cell.rate_column), {})[cell.row] = cell
    for (path, column, rate_column), wanted in by_file.items():
        for row, values in enumerate(_rows(path, [column, *([rate_column] if rate_column else [])])):
            if row in wanted:
                yield wanted[row], _held(values[column], values.get(rate_column))[0]


def wav_of(samples: np.ndarray, rate: int) -> bytes:
    """Return a WAV file that holds (samples,) or (samples, channels) exactly: 16 bits if these hold it, else floats."""
    scaled = samples * 32768
    is_integer = bool(np.all(scaled == np.round(scaled)) and np.all(np.abs(samples) < 1))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16" if is_integer else "FLOAT")
    return file.getvalue()


def _add(collection: Collection, source: Path, cell: Cell, values: dict[str, Any], roles: Roles) -> None:
    """Add one row as an utterance; audio that the row itself holds is measured here, while it is in memory."""
    where, value = f"{cell.path}, row {cell.row}", values[roles.audio]
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    try:
        held, suffix = _held(value, values.get(cell.rate_column))
        text, speaker = text_in(values, roles), speaker_in(values, roles, path or "")
        offset, duration, _ = cut_in(values, roles)
        if held:
            seconds = seconds_of(held, f"column {cell.column}")
        elif not path:
            raise WrongValue(f"column {cell.column} holds neither bytes nor a path of an audio file")
    except NotOneVoice as error:
        collection.leave_aside(error.reason, where)
        return
    except (WrongValue, InputError) as error:
        collection.refuse(where, str(error))
        return
    misc = attributes_in(values, roles.attributes)
    if held:
        audio: Path | Cell = replace(cell, name=cell.name + suffix)
        if offset is not None:
            collection.faults.append(f"{where}: a cut of audio inside the data set; write the audio to files first")
        collection.add(Utterance(cell.name, audio, text, speaker, where, seconds=seconds, misc=misc))
    else:
        file = find_audio(source, path)
        collection.add(Utterance(cell.name, file, text, speaker, where, offset, duration, misc=misc))


def _held(value: Any, rate: Any) -> tuple[bytes, str]:
    """Return the audio file that a value of the audio column holds, and its suffix; empty if it only names a file.

    Raises:
        WrongValue: if it holds samples that are no audio, or no rate.
    """
    if isinstance(value, dict):
        if content := value.get("bytes"):
            return content, SUFFIXES.get(content[:4], ".mp3")
        samples, rate = value.get("array"), value.get(RATE_COLUMN, rate)
    else:
        samples = value if isinstance(value, list | np.ndarray) else None
        if isinstance(value, bytes):
            return value, SUFFIXES.get(value[:4], ".mp3")
    if samples is None:
        return b"", ""
    if (
        isinstance(rate, bool)
        or not isinstance(rate, int | float)
        or not 1000 <= rate <= 1_000_000
        or rate != int(rate)
    ):
        raise WrongValue(f"its samples need their rate in {RATE_COLUMN}, a whole number in Hz, not {rate!r}")
    try:
        wave = np.asarray(samples, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise WrongValue(f"its samples are no numbers ({error})") from error
    if wave.ndim == 2 and wave.shape[0] < wave.shape[1]:  # (channels, samples), as librosa holds them
        wave = wave.T
    if wave.ndim not in (1, 2) or wave.size == 0:
        raise WrongValue(f"its samples have the shape {list(wave.shape)}; (samples) or (samples, channels) is needed")
    if getattr(samples, "dtype", None) == np.int16:  # the numbers of a WAV file of 16 bits
        wave = wave / 32768
    return wav_of(wave.astype(np.float32), int(rate)), ".wav"


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _data_files(files: Sequence[Path]) -> list[Path]:
    found = []
    for state in [path for path in files if path.name == STATE_FILE]:
        try:
            named = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
            found += [state.parent / file["filename"] for file in named]
        except (ValueError, KeyError, TypeError, OSError):
            continue  # another program's state file
    return found + [path for path in files if _is_parquet(path)]


def _header(path: Path) -> tuple[list[str], str | None]:
    """Return the names of the columns, and the first of a usual name that holds audio itself, if there is one.

    Many data sets also have a column ``path``, whose files are not there.
    """
    with _opened(path) as file:
        schema = file.schema_arrow if _is_parquet(path) else file.schema
        # A path is a string; audio is a structure, a list of samples, or bytes.
        holding = [field.name for field in schema if field.type.num_fields or "binary" in str(field.type)]
        return schema.names, next((name for name in AUDIO_COLUMNS if name in holding), None)


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the values of ``columns`` in each row."""
    with _opened(path) as file:
        batches = file.iter_batches(PARQUET_BATCH_ROWS, columns=columns) if _is_parquet(path) else file
        for batch in batches:
            found = [batch.column(name) for name in columns]
            for i in range(batch.num_rows):
                yield {name: _plain(column[i]) for name, column in zip(columns, found, strict=True)}


def _plain(value: Any) -> Any:
    """Return a value of Arrow as Python's; samples as an array, because a list of them would take 30 times as long."""
    kind = value.type
    if not value.is_valid:
        return None
    if str(kind).startswith("struct"):
        return {kind.field(i).name: _plain(value[kind.field(i).name]) for i in range(kind.num_fields)}
    if str(kind).startswith(("list<", "large_list<")) and str(kind.value_type) in SAMPLE_TYPES:
        return value.values.to_numpy(zero_copy_only=False)
    return value.as_py()


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
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise InputError(f"{path}: is a pointer of Git LFS, not the file; get the file with: git lfs pull")
        if _is_parquet(path):
            with parquet.ParquetFile(path, memory_map=True) as file:
                yield file
        else:
            with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as reader:
                yield reader
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as a data set of Hugging Face's datasets ({error})") from error
