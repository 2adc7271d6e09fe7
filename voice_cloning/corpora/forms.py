"""Reads collections of speech in several forms: clips with text files beside them, tables, and Kaldi's lists.

Each reader takes a source and the columns that the user named, and returns a :class:`Collection`. It adds the problems
of single entries to the collection, so that one error lists all of them.
"""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arabic_voice_cloning_dataset import read_text
from boson_multimodal.errors import InputError
from voice_cloning.corpora.utterances import ONE_SPEAKER, Collection, Utterance

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
AUDIO_COLUMNS = ("path", "audio", "file_name", "audio_path", "audio_file", "file", "filename", "wav", "wav_path")
TEXT_COLUMNS = ("sentence", "text", "transcript", "transcription", "normalized_text", "raw_text")
SPEAKER_COLUMNS = ("client_id", "speaker_id", "speaker", "speaker_name", "spk_id")
AUDIO_FOLDERS = (".", "clips", "wavs", "audio")
"""Folders, relative to a table, that may hold its audio: Common Voice and LJSpeech name files without their folder."""
LJSPEECH_COLUMNS = ("id", "text", "normalized_text")
LJSPEECH_TABLE = "metadata.csv"
KALDI_FILES = ("wav.scp", "text", "utt2spk")


@dataclass(frozen=True)
class Columns:
    """The columns that the user named; None stands for a column with a usual name.

    Attributes:
        speaker_from: a column; ``folder`` or ``name`` for clips with text files; ``one`` for a single voice.
    """

    audio: str | None = None
    text: str | None = None
    speaker_from: str | None = None

    def pick(self, header: list[str], where: str) -> tuple[str, str, str | None]:
        """Return the audio, text and speaker columns of a table; the speaker column is None for a single voice.

        Raises:
            InputError: naming every column that is unknown or was not found.
        """
        problems = []
        flags = (("--audio_column", self.audio, AUDIO_COLUMNS), ("--text_column", self.text, TEXT_COLUMNS))
        if self.speaker_from != ONE_SPEAKER:
            flags += (("--speaker_from", self.speaker_from, SPEAKER_COLUMNS),)
        picked: list[str | None] = []
        for flag, wanted, usual in flags:
            found = [name for name in ([wanted] if wanted else usual) if name in header]
            picked.append(found[0] if found else None)
            if not found and wanted:
                problems.append(f"{flag} {wanted}: unknown column; {where} has {header}")
            elif not found:
                one = ", or one for a single voice" if flag == "--speaker_from" else ""
                problems.append(
                    f"{flag}: name a column{one}; none of {list(usual)} is a column of {where}, which has {header}"
                )
        if problems:
            raise InputError("\n".join(problems))
        audio, text, *speaker = picked
        return str(audio), str(text), speaker[0] if speaker else None


def read_clips(source: Path, columns: Columns) -> Collection:
    """Read a folder and its subfolders of ``NAME.wav`` with ``NAME.txt`` beside it.

    The speaker is the name of the clip's folder, or the part of the clip's name before the first ``_`` or ``-``.
    """
    speaker_from = columns.speaker_from or "folder"
    if speaker_from not in ("folder", "name", ONE_SPEAKER):
        raise InputError(f"--speaker_from {speaker_from}: for clips with text files it must be folder, name or one")
    collection = Collection("clips")
    audio = sorted(p for p in source.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    texts = {p.with_suffix("") for p in source.rglob("*.txt")}
    for path in audio:
        text_path = path.with_suffix(".txt")
        if path.with_suffix("") not in texts:
            collection.problems.append(f"{path}: no {text_path.name} beside it; write there what the clip says")
            continue
        try:
            text = text_path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            collection.problems.append(f"{text_path}: not readable as UTF-8 text ({error})")
            continue
        folder = path.parent.relative_to(source)
        speaker = {
            "folder": folder.as_posix() if folder.parts else source.resolve().name,
            "name": path.stem.replace("-", "_").split("_")[0],
            ONE_SPEAKER: ONE_SPEAKER,
        }[speaker_from]
        name = (folder / path.stem).as_posix()
        collection.add(Utterance(name, path, text, speaker, str(text_path)))
    spoken = {path.with_suffix("") for path in audio}
    collection.problems += [f"{name}.txt: no audio file of that name beside it" for name in sorted(texts - spoken)]
    return collection


def read_ljspeech(source: Path, columns: Columns) -> Collection:
    """Read ``metadata.csv`` with lines ``id|text|normalised text`` and no header, and ``wavs/ID.wav``, of one voice.

    The normalised text is used if there is one, unless the user gave ``--text_column text``.
    """
    table = source if source.is_file() else source / LJSPEECH_TABLE
    if columns.speaker_from not in (None, ONE_SPEAKER) or columns.audio:
        raise InputError(f"{table}: LJSpeech has no header and one voice; of the column flags, give only --text_column")
    if columns.text not in (None, *LJSPEECH_COLUMNS[1:]):
        raise InputError(f"--text_column {columns.text}: unknown column; {table} has {list(LJSPEECH_COLUMNS)}")
    collection = Collection("ljspeech")
    for number, line in enumerate(_lines(table), 1):
        where, row = f"{table}, line {number}", line.strip().split("|")
        if row == [""]:
            continue
        if not 2 <= len(row) <= len(LJSPEECH_COLUMNS):
            collection.problems.append(
                f"{where}: has {len(row)} columns; it must have id|text or id|text|normalised text"
            )
            continue
        texts = dict(zip(LJSPEECH_COLUMNS, row, strict=False))
        text = texts.get(columns.text, "") if columns.text else texts.get("normalized_text") or texts["text"]
        path = _find_audio(table.parent, row[0])
        collection.add(Utterance(row[0], path, text, table.parent.resolve().name, where))
    return collection


def read_table(source: Path, columns: Columns) -> Collection:
    """Read a CSV, TSV or JSON-lines table with named columns, such as Common Voice's or an audiofolder's.

    TSV is read without quotes, as Common Voice writes it.
    """
    table = source if source.is_file() else _only_table(source)
    collection = Collection("table")
    picked: tuple[str, str, str | None] | None = None
    for where, row in _rows(table, collection):
        picked = picked or columns.pick(list(row), str(table))
        audio, text, speaker = picked
        if not row.get(audio):
            collection.problems.append(f"{where}: no audio file is named in column {audio}")
            continue
        path = _find_audio(table.parent, str(row[audio]))
        who = ONE_SPEAKER if speaker is None else str(row.get(speaker) or "")
        collection.add(Utterance(name_of(str(row[audio])), path, str(row.get(text) or ""), who, where))
    return collection


def read_kaldi(source: Path, columns: Columns) -> Collection:
    """Read ``wav.scp``, ``text`` and ``utt2spk``, with ``segments`` if utterances are cuts of recordings."""
    if columns != Columns():
        raise InputError(
            f"{source}: Kaldi's lists have no named columns, and utt2spk names the speakers; leave out --audio_column, "
            "--text_column and --speaker_from"
        )
    if absent := [name for name in KALDI_FILES if not (source / name).is_file()]:
        raise InputError(f"{source}: {', '.join(absent)} missing; Kaldi's form needs {', '.join(KALDI_FILES)}")
    collection = Collection("kaldi")
    recordings = _recordings(source / "wav.scp", collection)
    cuts = _segments(source / "segments", collection) if (source / "segments").is_file() else None
    speakers = dict(_keyed_lines(source / "utt2spk", collection).values())
    for where, (name, text) in _keyed_lines(source / "text", collection).items():
        recording, offset, duration = (name, None, None) if cuts is None else cuts.get(name, ("", None, None))
        if name not in speakers:
            collection.problems.append(f"{where}: {name} has no speaker in utt2spk")
        elif cuts is not None and not recording:
            collection.problems.append(f"{where}: {name} has no cut in segments")
        elif recording not in recordings:
            collection.problems.append(f"{where}: {recording} has no audio file in wav.scp")
        elif path := recordings[recording]:
            collection.add(Utterance(name, path, text, speakers[name], where, offset, duration))
    return collection


def _recordings(path: Path, collection: Collection) -> dict[str, Path | None]:
    """Return recording -> file; None for a command or an archive, which is a problem."""
    found: dict[str, Path | None] = {}
    for where, (name, value) in _keyed_lines(path, collection).items():
        problem = None
        if value.endswith("|") or value.startswith("|"):
            problem = "is a command, and commands are never run here; run it yourself and name the file that it writes"
        elif ".ark:" in value:
            problem = "points into an archive; write its audio to files (wav-copy) and name these files"
        if problem:
            collection.problems.append(f"{where}: {value!r} {problem}")
        beside = path.parent / value
        found[name] = None if problem else beside if beside.exists() else Path(value).absolute()
    return found


def _segments(path: Path, collection: Collection) -> dict[str, tuple[str, float, float | None]]:
    """Return utterance -> (recording, offset, duration), in seconds; an end of -1 is the end of the recording."""
    found = {}
    for where, (name, value) in _keyed_lines(path, collection).items():
        try:
            recording, start, end = value.split()[:3]
            offset, last = float(start), float(end)
        except ValueError:
            collection.problems.append(f"{where}: it must hold: utterance recording start end, the times in seconds")
            continue
        if offset < 0 or (last != -1 and last <= offset):
            collection.problems.append(f"{where}: a cut from {start} to {end} s is impossible; start < end is needed")
            continue
        found[name] = (recording, offset, None if last == -1 else last - offset)
    return found


def _keyed_lines(path: Path, collection: Collection) -> dict[str, tuple[str, str]]:
    """Return place -> (key, value) of each line ``KEY VALUE``; a repeated key is a problem."""
    found: dict[str, tuple[str, str]] = {}
    seen: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            key, *rest = line.strip().split(maxsplit=1)
            if key in seen:
                collection.problems.append(f"{path}, line {number}: {key} is on line {seen[key]} too; keep one of them")
            seen[key] = number
            found[f"{path}, line {number}"] = (key, "".join(rest))
    return found


def _rows(table: Path, collection: Collection) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, column -> value) for each row of a table; a line that is no row is a problem."""
    lines = _lines(table)
    if table.suffix == ".jsonl":
        yield from _json_rows(table, lines, collection)
        return
    if not lines:
        raise InputError(f"{table}: is empty; its first line must name the columns")
    if table.suffix == ".tsv":
        reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(lines, delimiter=max(",;|\t", key=lines[0].count))
    try:
        for row in reader:
            yield f"{table}, line {reader.line_num}", row
    except csv.Error as error:
        raise InputError(f"{table}, line {reader.line_num}: not a row of a table ({error})") from error


def _json_rows(table: Path, lines: list[str], collection: Collection) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(lines, 1):
        where = f"{table}, line {number}"
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            collection.problems.append(f"{where}: not JSON ({error})")
            continue
        if isinstance(row, dict):
            yield where, row
        elif line.strip():
            collection.problems.append(f"{where}: it must be a JSON object of column: value")


def _lines(path: Path) -> list[str]:
    """Return lines with their ends; only a line feed ends a line, because a text may hold U+2028 and the like."""
    text = read_text(path)
    return [f"{line}\n" for line in text.removesuffix("\n").split("\n")] if text else []


def _find_audio(folder: Path, name: str) -> Path:
    """Return the audio file that a table names; if none exists, the path where it most likely should be."""
    for place in AUDIO_FOLDERS:
        for suffix in ("", *AUDIO_SUFFIXES):
            path = folder / place / f"{name}{suffix}"
            if os.path.isfile(path):  # Path.is_file raises an error if a name is too long
                return path
    return folder / name


def name_of(file_name: str) -> str:
    """Return a file's name without the suffix of an audio format."""
    stem, suffix = os.path.splitext(file_name)
    return stem if suffix.lower() in AUDIO_SUFFIXES else file_name


def _only_table(folder: Path) -> Path:
    tables = sorted(p for p in folder.iterdir() if p.suffix in TABLE_SUFFIXES)
    if len(tables) != 1:
        found = ", ".join(p.name for p in tables) or "none"
        raise InputError(f"{folder}: give the table itself as the source; tables in this folder: {found}")
    return tables[0]
