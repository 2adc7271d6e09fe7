"""Reads data sets that Hugging Face's ``datasets`` wrote to disk: Arrow folders and Parquet files.

pyarrow reads both batch by batch, so that the audio in the files is never in memory as a whole. ``datasets`` itself is
not needed. An audio column holds a structure of ``bytes`` and ``path``, one of ``array`` and ``sampling_rate``, a path,
or bare samples with their rate in a column ``sampling_rate``.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.progress import progress
from voice_cloning.corpora.attributes import attributes_in
from voice_cloning.corpora.cell_values import WrongValue, by_usual_name
from voice_cloning.corpora.columns import (
    AUDIO_COLUMNS,
    Columns,
    NoSpeakerError,
    Roles,
    cut_in,
    roles_of_header,
    speaker_in,
    text_in,
)
from voice_cloning.corpora.countries import country_attributes
from voice_cloning.corpora.held_audio import (
    RATE_COLUMNS,
    HeldAudio,
    HeldCounts,
    MeasuredAudio,
    cut_of,
    held_audio,
    measured,
)
from voice_cloning.corpora.known_corpora import CLARTTS, KnownCorpus, recognise
from voice_cloning.corpora.source_files import each_once, existing_audio, facts_of_files, find_audio, list_files
from voice_cloning.corpora.speaker_sources import SPEAKER_COLUMNS, UNKNOWN, NotOneVoice
from voice_cloning.corpora.utterances import ONE_SPEAKER, Cell, Collection, Utterance

STATE_FILE = "state.json"
"""The file beside the Arrow files of one split that names them."""
PARQUET_BATCH_ROWS = 16
"""Rows that are in memory at a time: a row of samples as 64-bit floats takes up to 4 MB, one with a recording 20 MB."""
SAMPLE_TYPES = ("float", "double", "halffloat", "int16", "int32")
LFS_POINTER = b"version https://git-lfs"
"""The first bytes of what Git leaves in place of a large file that was not downloaded."""
SAMPLES, FILES = "samples", "files"
"""How a column holds audio: as lists of numbers, which need their rate, or as files or structures."""
NAMED_BY_AUDIO = ("name", "file")
"""Values of ``--speaker_from`` that need the name of each clip."""
NO_SPEAKER_FOLDERS = ("data", "default", "train", "test", "validation", "val", "valid", "dev")
"""Folders of data files that are surely not called like a speaker."""
CLARTTS_RATE = 40_100
"""No other corpus has this rate."""
EPISODE_COLUMNS = ("seg_id", "segment_id", "segmentid", "video_id", "episode", "file_name", "filename", "file", "id")
"""Columns, in lower case, whose values may name the recording that a clip is from."""


@dataclass(frozen=True)
class _DataFile:
    """A file of a data set, and what its columns are.

    Attributes:
        name: its path in the source.
        roles: the columns.
        rate_column: the column of the rate of bare samples.
        corpus: the public corpus that it is from, if it is known.
        given: attributes of all rows, which the names of folders say.
        speaker: the name of the one voice, if the corpus has one and no column names it; else None.
    """

    path: Path
    name: str
    header: tuple[str, ...]
    roles: Roles
    rate_column: str | None
    corpus: KnownCorpus | None
    given: Mapping[str, str] = field(default_factory=dict)
    speaker: str | None = None

    @property
    def read(self) -> list[str]:
        """The columns to read."""
        return [*self.roles.columns, *([self.rate_column] if self.rate_column else [])]

    @property
    def facts(self) -> list[str]:
        """What was taken for what, for the user."""
        facts = self.roles.facts([name for name in self.header if name != self.rate_column])
        if self.speaker:
            facts = [fact for fact in facts if not fact.startswith("speaker: ")]
            facts.append(f"speaker: none is named; this is {self.speaker}, which has one voice")
        if self.rate_column:
            facts.append(f"rate of bare samples: column {self.rate_column}")
        return facts + [f"{key}: {value}, as a folder or file is called" for key, value in self.given.items()]


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
    root = source.parent if source.is_file() else source
    files = _understood(source, root, _data_files(listing.files), columns)
    collection.corpus = next((file.corpus for file in files if file.corpus), None)
    counts = HeldCounts()
    with progress(title=f"reading {source.name}", unit="row") as bar:
        for file in files:
            split = file.path.relative_to(root).with_suffix("").as_posix().replace("/", "-")
            for row, values in enumerate(_rows(file.path, file.read)):
                cell = Cell(file.path, file.roles.audio, row, f"{split}-{row:06d}", file.rate_column)
                _add(collection, root, file, cell, values, counts)
                bar.update()
    collection.facts += facts_of_files("files", [(file.name, file.facts) for file in files]) + counts.facts()
    return collection


def _understood(source: Path, root: Path, paths: Sequence[Path], columns: Columns) -> list[_DataFile]:
    """Return what the columns of each file are, before any row is read.

    Raises:
        InputError: naming all files that cannot be read, and the columns that are missing, once for files alike.
    """
    files: list[_DataFile] = []
    problems: list[tuple[Path, str]] = []
    unnamed: list[Path] = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            files.append(_data_file(path, name, columns, root))
        except InputError as error:
            problems.append((path, str(error)))
            unnamed += [path] if isinstance(error, NoSpeakerError) else []
    listed = each_once(problems)
    if columns.speaker_from is None and unnamed:
        listed[-1] = "\n  ".join([listed[-1], *_hints(unnamed, root)])
    raise_if_any(f"{source}: problems in the files of this data set", listed)
    return files


def _data_file(path: Path, name: str, columns: Columns, root: Path) -> _DataFile:
    header, audio, kind = _header(path)
    wanted = columns if columns.audio else replace(columns, audio=audio)
    usual = by_usual_name(header)
    rate_column = next((usual[rate] for rate in RATE_COLUMNS if rate in usual), None)
    if wanted.audio == audio and kind == SAMPLES and not rate_column:
        raise InputError(
            f"{path}: column {audio} holds samples, but no column their rate; add a column {RATE_COLUMNS[0]} with a "
            f"whole number in Hz; the columns are {header}"
        )
    corpus = recognise(header) or _clartts(path, usual)
    has_speaker = columns.speaker_from is not None or usual.keys() & set(SPEAKER_COLUMNS)
    speaker = corpus.name if corpus and corpus.one_voice and not has_speaker else None
    wanted = replace(wanted, speaker_from=ONE_SPEAKER) if speaker else wanted
    roles = roles_of_header(header, wanted, str(path))
    given = country_attributes((root.resolve().name, *Path(name).parts), roles.attributes)
    return _DataFile(path, name, tuple(header), roles, rate_column, corpus, given, speaker)


def _hints(paths: Sequence[Path], root: Path) -> list[str]:
    """Return which values of ``--speaker_from`` suit data files that name no speaker, by what each folder holds."""
    hints = ["cluster tells the voices apart by their sound; one is right for a single voice only"]
    for folder, path in reversed({path.parent: path for path in reversed(paths)}.items()):
        found = []
        if folder != root and folder.name.casefold() not in NO_SPEAKER_FOLDERS:
            found.append(f"folder takes all clips of {folder.name} for one voice")
        usual = {column.casefold(): column for column in reversed(_header(path)[0])}
        for column in [usual[key] for key in EPISODE_COLUMNS if key in usual]:
            found.append(f"column {column} holds such as {_first(path, [column])[column]!r}")
        hints += ["; ".join(found)] if found else []
    return [f"of the values of --speaker_from, {hint}" for hint in hints]


def _clartts(path: Path, usual: Mapping[str, str]) -> KnownCorpus | None:
    """Return ClArTTS if a file is from it. Its columns have common names; its rate and the names of its clips tell."""
    if not usual.keys() >= {"file", "text", "audio", "duration"}:
        return None
    first = _first(path, [usual[name] for name in ("file", *RATE_COLUMNS) if name in usual])
    is_name = re.match(r"ART_CC|ch_\d+_arabic_tts", Path(str(first.get(usual["file"]))).name)
    return CLARTTS if is_name or CLARTTS_RATE in first.values() else None


def _first(path: Path, columns: Sequence[str]) -> dict[str, Any]:
    """Return the values of the first row; None for all if there is no row."""
    return next(_rows(path, list(columns)), dict.fromkeys(columns))


def read_cells(cells: Sequence[Cell]) -> Iterator[tuple[Cell, bytes]]:
    """Yield each cell with the bytes of its audio file, file by file."""
    by_file: dict[tuple[Path, str, str | None], dict[int, Cell]] = {}
    for cell in cells:
        by_file.setdefault((cell.path, cell.column, cell.rate_column), {})[cell.row] = cell
    for (path, column, rate_column), wanted in by_file.items():
        for row, values in enumerate(_rows(path, [column, *([rate_column] if rate_column else [])])):
            if cell := wanted.get(row):
                content = held_audio(values[column], values.get(rate_column)).content
                yield cell, content if cell.cut is None else cut_of(content, *cell.cut)


def _add(
    collection: Collection, root: Path, file: _DataFile, cell: Cell, values: dict[str, Any], counts: HeldCounts
) -> None:
    """Add one row as an utterance; audio that the row itself holds is measured here, while it is in memory."""
    where, value, roles = f"{cell.path}, row {cell.row}", values[file.roles.audio], file.roles
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    length = MeasuredAudio(0.0)
    try:
        held = held_audio(value, values.get(cell.rate_column), cell.rate_column)
        text, speaker = text_in(values, roles), file.speaker or speaker_in(values, roles, _place(file, path))
        offset, duration, _ = cut_in(values, roles)
        if held.content:
            length = measured(held.content, f"column {cell.column}", offset, duration)
        elif not path:
            raise WrongValue(f"column {cell.column} holds neither bytes nor a path of an audio file")
    except NotOneVoice as error:
        collection.leave_aside(error.reason, where)
        return
    except (WrongValue, InputError) as error:
        collection.refuse(where, str(error))
        return
    if file.corpus and not text.strip():  # the corpus is as it is: nobody can write its texts
        collection.leave_aside("rows without a text", where)
        return
    if file.corpus and roles.speaker and not speaker and not roles.is_at_word:
        collection.leave_aside(UNKNOWN, where)
        return
    misc = {**file.given, **attributes_in(values, roles.attributes)}
    if not held.content:
        audio = existing_audio(file.path.parent, path) or find_audio(root, path)
        collection.add(Utterance(cell.name, audio, text, speaker, where, offset, duration, misc=misc))
        return
    collection.add(
        Utterance(cell.name, _cell(cell, held, length), text, speaker, where, seconds=length.seconds, misc=misc)
    )
    counts.add(length, is_named=offset is not None, was_integer=held.was_integer)


def _cell(cell: Cell, held: HeldAudio, length: MeasuredAudio) -> Cell:
    """Return a cell with the name of the clip to write; a cut is written as WAV."""
    if length.offset is None:
        return replace(cell, name=cell.name + held.suffix)
    return replace(cell, name=f"{cell.name}.wav", cut=(length.offset, length.duration))


def _place(file: _DataFile, path: str | None) -> str:
    """Return the name of a row's audio, which may hold the speaker; without a folder, it gets that of the data file.

    Raises:
        WrongValue: if the name should hold the speaker, and the audio has none.
    """
    if not path and file.roles.speaker_from in NAMED_BY_AUDIO:
        raise WrongValue(
            f"--speaker_from {file.roles.speaker_from}: the audio in column {file.roles.audio} has no name of a file"
        )
    if path and re.search(r"[\\/]", path):
        return path
    folder = Path(file.name).parent.as_posix()
    return f"{folder if folder != '.' else file.path.resolve().parent.name}/{path or 'clip'}"


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


def _header(path: Path) -> tuple[list[str], str | None, str]:
    """Return the names of the columns, the first of a usual name that holds audio itself, and how it holds it.

    Many data sets also have a column ``path``, whose files are not there. If no column of a usual name holds audio, the
    only one that does is returned.
    """
    with _opened(path) as file:
        schema = file.schema_arrow if _is_parquet(path) else file.schema
        # A path is a string; audio is a structure, a list of samples, or bytes.
        holding = {field.name: field.type for field in schema if field.type.num_fields or "binary" in str(field.type)}
        structures = [name for name, kind in holding.items() if _is_audio_structure(kind)]
        usual = {name.casefold(): name for name in reversed(list(holding))}
        found = next((usual[name] for name in AUDIO_COLUMNS if name in usual), None)
        if found is None and len(structures) == 1:
            found = structures[0]
        is_list = found is not None and str(holding[found]).startswith(("list<", "large_list<", "fixed_size_list<"))
        return schema.names, found, SAMPLES if is_list else FILES


def _is_audio_structure(kind: Any) -> bool:
    """Return whether a type of Arrow is that of an Audio column of ``datasets``."""
    names = {kind.field(i).name for i in range(kind.num_fields)} if str(kind).startswith("struct") else set()
    return names >= {"bytes", "path"} or names >= {"array", RATE_COLUMNS[0]}


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
