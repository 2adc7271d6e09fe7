"""Reads tables: CSV, TSV, lists with bars and no header, quoted pairs, JSON lines and JSON lists."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError, raise_if_any
from voice_cloning.corpora.attributes import attributes_in
from voice_cloning.corpora.audio_lookup import AudioFiles, archives_fault
from voice_cloning.corpora.cell_values import WrongValue
from voice_cloning.corpora.columns import (
    Columns,
    Roles,
    cut_in,
    other_lengths,
    roles_of_header,
    speaker_in,
    text_in,
    unread_times,
)
from voice_cloning.corpora.known_corpora import ARABIC_SPEECH_CORPUS, KnownCorpus, recognise
from voice_cloning.corpora.list_columns import roles_of_list
from voice_cloning.corpora.source_files import control_problem, name_of
from voice_cloning.corpora.speaker_sources import UNKNOWN, VIDEO_COLUMNS, NotOneVoice, is_label_within_a_file, label_of
from voice_cloning.corpora.subtitles import lists_videos, with_cues
from voice_cloning.corpora.table_choice import choose_tables
from voice_cloning.corpora.table_lines import Table, open_table
from voice_cloning.corpora.utterances import LATEST_END, Channel, Collection, Utterance, seconds_of, speakers_of

SPLIT = "split"
"""The name in ``misc`` of the table's own name, if several tables are read together."""
TRANSCRIPT_FOLDERS = ("transcript", "transcripts", "subsets")
"""Folders of tables beside which a public corpus has the folder of its audio."""
ARABIC_SPEECH_CORPUS_CLIP = "ARA NORM "
SAMPLE_FILES = 50
"""Rows whose files decide which column names the audio, and whether the files are the cuts already."""
Rows = Sequence[tuple[str, dict[str, Any]]]


@dataclass
class _Source:
    """A table while it is read.

    Attributes:
        voice: the name of its speaker, if it is one voice that nothing names.
        prefix: what comes before the ids of its utterances.
        split: what ``misc`` holds as its name; None for a single table.
        notes: what is to be said of single rows.
    """

    path: Path
    table: Table
    corpus: KnownCorpus | None
    files: AudioFiles
    voice: str
    prefix: str = ""
    split: str | None = None
    notes: list[str] = field(default_factory=list)


def read_table(source: Path, columns: Columns, encoding: str | None = None) -> Collection:
    """Read a table with or without a header, such as Common Voice's, LJSpeech's or a NeMo manifest.

    Tables of one folder that have the same columns, such as the splits of a corpus, are read together.

    Raises:
        InputError: if a table cannot be read, or its columns cannot be told apart.
    """
    choice = choose_tables(source, columns, encoding) if source.is_dir() else None
    paths = choice.tables if choice else (source,)
    collection = Collection("table", table=paths[0], facts=list(choice.facts) if choice else [])
    seen: dict[tuple[str, ...], list[str]] = {}
    sources = [_opened(path, source, columns, encoding, paths) for path in paths]
    for read in sources:
        facts = _add_table(collection, read, columns)
        if len(sources) > 1:
            facts = [fact.replace(f"table: {read.path.name},", "each table:") for fact in facts]
        seen.setdefault(tuple(facts), []).append(read.path.name)
    for facts, names in seen.items():
        collection.facts += [f"tables: {', '.join(names)}", *facts] if len(seen) > 1 else facts
    collection.facts += [note for read in sources for note in read.notes]
    if moved := {name for read in sources for name in read.files.found_below}:
        collection.facts.append(f"audio files that are not where the table says, found by their names: {len(moved)}")
    if fault := archives_fault([read.files for read in sources]):
        collection.faults.append(fault)
    return collection


def _opened(path: Path, source: Path, columns: Columns, encoding: str | None, paths: Sequence[Path]) -> _Source:
    """Open one of the tables that are read together."""
    table = open_table(path, columns, encoding)
    corpus = recognise(table.header) if table.has_header else _corpus_of_list(table)
    where = path.absolute() if corpus and source.is_file() else path  # to see the names of the folders above
    below = source if source.is_dir() else where.parent if corpus else None
    while corpus and below and (below.name in TRANSCRIPT_FOLDERS or below.parent.name in TRANSCRIPT_FOLDERS):
        below = below.parent
    if lists_videos(table.header) and below:
        table = with_cues(table, below)
    inner = path.parent.relative_to(source).as_posix() if source.is_dir() else "."
    prefix = "" if inner == "." else f"{inner}/"
    files = AudioFiles(where, below)
    # Lists of one name in several folders are told by their folders.
    split = path.stem if len({other.stem for other in paths}) > 1 else path.parent.resolve().name
    voice = (source if source.is_dir() else path.parent).resolve().name
    return _Source(path, table, corpus, files, voice, prefix, split if len(paths) > 1 else None)


def _corpus_of_list(table: Table) -> KnownCorpus | None:
    first = next((str(value) for _, row in table.rows for value in row.values()), "")
    return ARABIC_SPEECH_CORPUS if first.startswith(ARABIC_SPEECH_CORPUS_CLIP) else None


def _add_table(collection: Collection, read: _Source, columns: Columns) -> list[str]:
    """Add what a table holds. Returns what was taken for what."""
    path, table = read.path, read.table
    collection.problems += table.problems
    collection.corpus = collection.corpus or read.corpus
    if not table.rows:
        return table.facts
    try:
        roles = _roles(read, columns)
    except InputError as error:
        wrong = [f"{where}: {problem}" for where, problem in table.problems]
        raise_if_any(f"{error}\n{path}: these lines are wrong too", wrong)
        raise
    facts = [*table.facts, *roles.facts(table.header)]
    name_of_table = "" if read.split is None else f"{path}: "
    unread = unread_times(table.header, roles, [row for _, row in table.rows])
    collection.faults += [name_of_table + fault for fault in unread]
    read.notes += other_lengths(table.header, roles, table.rows)
    if _files_are_cuts(read, roles):
        facts = [fact for fact in facts if not fact.startswith("cut: ")]
        facts.append(f"columns {roles.offset}, {roles.end or roles.duration} are times in the recording that the "
                     "clips were cut from; the clips are read whole")  # fmt: skip
        roles = replace(roles, offset=None, end=None, duration=None)
    collection.speaker_from = roles.speaker_from
    first = len(collection.utterances)
    add_rows(collection, table.rows, roles, read)
    added = collection.utterances[first:]
    is_one = len(speakers_of(added)) == 1
    is_guessed = columns.speaker_from is None and not table.has_header and is_one
    collection.speaker_is_guessed |= is_guessed and not (read.corpus and read.corpus.one_voice)
    if roles.speaker is None and columns.speaker_from is None and roles.video is None:  # one voice, which needs a name
        collection.utterances[first:] = [replace(utterance, speaker=read.voice) for utterance in added]
    return facts


def _roles(read: _Source, columns: Columns) -> Roles:
    path, rows = read.path, [row for _, row in read.table.rows]
    if not read.table.has_header:
        return roles_of_list(rows, columns, str(path), read.files.exists)

    def files_of(column: str) -> int:
        values = [row.get(column) for row in rows[:SAMPLE_FILES]]
        names = [value.get("path") if isinstance(value, dict) else value for value in values]
        return sum(isinstance(name, str) and read.files.exists(name.strip()) for name in names)

    roles = roles_of_header(read.table.header, columns, str(path), files_of)
    if (
        roles.speaker
        and roles.offset
        and not roles.is_at_word
        and not roles.recording
        and _are_counted_anew(rows, roles)
    ):
        return replace(roles, recording=roles.audio)
    return roles


def _are_counted_anew(rows: Sequence[dict[str, Any]], roles: Roles) -> bool:
    """Return whether all speakers of cuts have labels such as ``SPEAKER_00``, and several recordings share one."""
    recordings: dict[str, set[str]] = {}
    for row in rows:
        value = row.get(roles.speaker)
        label = label_of(value, str(roles.speaker)) if isinstance(value, str) else ""
        if label:
            recordings.setdefault(label, set()).add(str(row.get(roles.audio)))
    return all(map(is_label_within_a_file, recordings)) and any(len(found) > 1 for found in recordings.values())


def _files_are_cuts(read: _Source, roles: Roles) -> bool:
    """Return whether the files are as long as their cuts, and so hold the cut alone, although it starts later."""
    if not roles.offset:
        return False
    cut = whole = 0
    for _, row in read.table.rows[:SAMPLE_FILES]:
        try:
            offset, duration, _ = cut_in(row, roles)
            name = _audio_name(row.get(roles.audio), roles.audio)
            if not offset or duration is None or not read.files.exists(name):
                continue
            seconds = seconds_of(read.files.find(name), name)
        except (WrongValue, InputError):
            continue  # it is named when the rows are added
        if abs(seconds - duration) <= LATEST_END and offset + duration > seconds + LATEST_END:
            cut += 1
        else:
            whole += 1
    return cut > whole


def add_rows(collection: Collection, rows: Rows, roles: Roles, read: _Source) -> None:
    """Add the rows of a table as utterances. The id of a cut holds its time, because a file may have many cuts."""
    folder, named_by_times = read.path.parent, 0
    for where, row in rows:
        try:
            name = _audio_name(row.get(roles.audio), roles.audio)
            offset, duration, channel = cut_in(row, roles)
            text, speaker = text_in(row, roles), speaker_in(row, roles, name)
            path = _clip_of_video(read, roles, name, offset, duration)
            if path is not None:
                name, offset, duration, named_by_times = path.name, None, None, named_by_times + 1
            path = path or read.files.find(name)
        except NotOneVoice as error:
            collection.leave_aside(error.reason, where)
            continue
        except WrongValue as error:
            collection.refuse(where, str(error))
            continue
        if read.corpus and not text:  # the corpus is as it is: nobody can write its texts
            collection.leave_aside("rows without a text", where)
            continue
        if read.corpus and not speaker and not roles.is_at_word:
            collection.leave_aside(UNKNOWN, where)
            continue
        if re.match(r"[A-Za-z]:[\\/]", name) and not os.path.exists(path):
            collection.refuse(where, f"{name}: no such file: a path of Windows; write it relative to {folder}")
            continue
        utterance_id = read.prefix + name_of(name)
        if offset is not None or duration is not None:
            utterance_id += f"_{offset or 0:.3f}" + ("" if duration is None else f"_{(offset or 0) + duration:.3f}")
        audio: Path | Channel = path
        if channel is not None:
            utterance_id += f"_channel{channel}"
            audio = Channel(path, channel, clip_file_name(len(collection.utterances), utterance_id))
        misc = ({SPLIT: read.split} if read.split else {}) | attributes_in(row, roles.attributes)
        collection.add(Utterance(utterance_id, audio, text, speaker, where, offset, duration, misc=misc))
    if named_by_times:
        read.notes.append(f"clips that are called by the video and the times of the row, read whole: {named_by_times}")


def _clip_of_video(read: _Source, roles: Roles, name: str, offset: float | None, duration: float | None) -> Path | None:
    """Return the clip that is called by a video and the times of a row, if the row names the video alone."""
    if roles.audio.casefold() not in VIDEO_COLUMNS or offset is None or duration is None or read.files.exists(name):
        return None
    return read.files.clip_of_cut(name, offset, offset + duration)


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
