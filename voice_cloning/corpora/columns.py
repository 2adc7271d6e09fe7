"""Says which column of a table is the audio, the text, the speaker and the cut, and reads their values strictly.

The columns of a table with a header have usual names, or the user names them. ``list_columns.py`` tells those of a list
without a header apart.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from boson_multimodal.errors import InputError
from voice_cloning.corpora.attributes import attributes_of_header
from voice_cloning.corpora.cell_values import (
    MISSING_VALUES,
    WrongValue,
    by_usual_name,
    channel_of,
    seconds_value,
    shown,
)
from voice_cloning.corpora.known_corpora import MASC, recognise
from voice_cloning.corpora.speaker_sources import (
    COLUMN,
    PLACES,
    SPEAKER_COLUMNS,
    VIDEO,
    VIDEO_COLUMNS,
    check_is_known,
    check_is_one_voice,
    label_of,
    recording_of,
    speaker_at,
    speaker_choices,
)
from voice_cloning.corpora.utterances import ONE_SPEAKER

AUDIO_COLUMNS = (
    *("path", "audio", "file_name", "audio_path", "audio_file", "audio_filepath", "file", "filename", "wav"),
    *(
        "wav_path",
        "wav_filename",
        "audio_filename",
        "file_path",
        "filepath",
        "wav_file",
        "original_wav",
        "clip",
        "clip_path",
    ),
)
TEXT_COLUMNS = (
    *("sentence", "text", "transcript", "transcription", "normalized_text", "raw_text", "normalized_transcript"),
    *("groundtruthtext", "ground_truth_text", "processedtext", "processed_text", "orthographic", "cleaned_text"),
)
AS_SPOKEN = {"groundtruthtext": "processedtext", "ground_truth_text": "processed_text", "text": "cleaned_text"}
"""A text with its punctuation and spelling -> the same text without, which is used where the first is empty."""
CUT_COLUMNS = {
    "offset": ("offset", "start", "start_time", "start_sec", "begin", "segment_start", "segmentstart"),
    "end": ("end", "end_time", "end_sec", "stop", "segment_end", "segmentend"),
    "channel": ("channel", "channel_id", "channel_selector"),
}
DURATION_COLUMNS = ("duration", "segment_length", "segmentlength")
ROUNDED_LENGTH = 0.1
"""Seconds by which a length may differ from end - start, because tables round times."""
RECORDING_COLUMNS = ("filename", "file_name", "segmentid", "segment_id")
"""Columns that name the recording of a segment, in a corpus whose labels of speakers are counted anew in each."""
LIKE_A_TIME = re.compile("start|begin|onset|offset|stop|xmin|xmax|(?:^|_)(?:end|from|to|t0|t1)(?:_|$)")
"""Names of columns that may be times of cuts."""
ABOUT_THE_SPEAKER = ("gender", "age", "dialect")
"""Attributes in which a corpus says that a segment has several speakers."""

Row = Mapping[str, Any]


class NoSpeakerError(InputError):
    """A table names no speaker; it may have other faults too."""


@dataclass(frozen=True)
class Columns:
    """The columns that the user named; None stands for a column with a usual name.

    Attributes:
        speaker_from: a column; ``column`` for one with a usual name; or a value of ``speaker_sources.PLACES``.
    """

    audio: str | None = None
    text: str | None = None
    speaker_from: str | None = None


@dataclass(frozen=True)
class Roles:
    """The column of each role; None for a role that no column has.

    Attributes:
        texts: the first one that is not empty is the text.
        speaker: None if ``speaker_from`` says where the speaker comes from.
        speaker_from: a value of ``speaker_sources.PLACES``; None for a column.
        recording: the column of the recording, if labels of speakers are counted anew in each recording.
        video: the column of the video, if the video stands for the speaker.
        about_speaker: columns that may say that a segment has several speakers.
        is_at_word: whether the user named the column of the speakers, so that every label counts as it is.
        attributes: name in ``misc`` -> column.
    """

    audio: str
    texts: tuple[str, ...]
    speaker: str | None = None
    speaker_from: str | None = None
    offset: str | None = None
    end: str | None = None
    duration: str | None = None
    channel: str | None = None
    recording: str | None = None
    video: str | None = None
    about_speaker: tuple[str, ...] = ()
    is_at_word: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        found = (self.audio, *self.texts, self.speaker, self.offset, self.end, self.duration, self.channel)
        found += (self.recording, self.video, *self.about_speaker, *self.attributes.values())
        return tuple(dict.fromkeys(name for name in found if name))

    def facts(self, header: Sequence[str]) -> list[str]:
        """Return what was taken for what, for the user."""
        text = " or, where it is empty, ".join(self.texts)
        if len(self.texts) > 1 and AS_SPOKEN.get(self.texts[0].casefold()) == self.texts[1].casefold():
            text += f"; {self.texts[0]} has all of the punctuation (--text_column {self.texts[1]} for the other)"
        facts = [f"audio: column {self.audio}", f"text: column {text}", f"speaker: {self.speaker_fact}"]
        cut = [name for name in (self.offset, self.end, self.duration) if name]
        if cut:
            facts.append(f"cut: columns {', '.join(cut)}")
        if self.channel:
            facts.append(f"channel: column {self.channel}")
        if self.attributes:
            kept = ", ".join(f"{name} (column {column})" for name, column in self.attributes.items())
            facts.append(f"kept in misc: {kept}")
        if left := [name for name in header if name not in self.columns]:
            facts.append(f"columns that are not used: {', '.join(left)}")
        return facts

    @property
    def speaker_fact(self) -> str:
        """Where the speaker comes from, for the user."""
        if self.speaker and self.recording:
            return (
                f"column {self.speaker} within each recording (column {self.recording}), because its labels are "
                f"counted anew in each; --speaker_from {self.speaker} takes them as they are"
            )
        if self.speaker:
            return f"column {self.speaker}"
        return PLACES[self.speaker_from or ONE_SPEAKER] + (f" (column {self.video})" if self.video else "")


def roles_of_header(
    header: Sequence[str], columns: Columns, where: str, files_of: Callable[[str], int] | None = None
) -> Roles:
    """Return the roles of named columns. Upper and lower case are the same in usual names.

    Args:
        files_of: how many of a column's values name files that exist; it decides between several columns of usual
            names for the audio. Without it the first one is taken.

    Raises:
        NoSpeakerError, InputError: naming every column that is unknown or was not found.
    """
    problems = [
        f"{where}: {name} names {n} columns; give each its own name" for name, n in Counter(header).items() if n > 1
    ]
    usual = by_usual_name(header)
    cut = {role: _first(usual, names) for role, names in CUT_COLUMNS.items()}
    corpus = recognise(header)
    if corpus is MASC:  # a channel of YouTube
        cut["channel"] = None
    place, speaker = _speaker_source(header, usual, columns, corpus is not None and corpus.one_voice)
    audio, text = _audio_column(header, usual, columns, files_of), _picked(columns.text, TEXT_COLUMNS, header, usual)
    flags = [
        ("--audio_column", columns.audio, AUDIO_COLUMNS, audio),
        ("--text_column", columns.text, TEXT_COLUMNS, text),
    ]
    if place is None:
        flags.append(("--speaker_from", columns.speaker_from, SPEAKER_COLUMNS, speaker))
    for flag, wanted, names, found in flags:
        if not found and wanted and wanted != COLUMN:
            problems.append(f"{flag} {wanted}: unknown column; {where} has {list(header)}")
        elif not found:
            other = f", or {speaker_choices(bool(cut['offset']))}" if flag == "--speaker_from" else ""
            problems.append(
                f"{flag}: name a column{other}; none of {list(names)} is a column of {where}, which has {list(header)}"
            )
    if problems:
        error = NoSpeakerError if place is None and not speaker else InputError
        raise error("\n".join(problems))
    # Without a start, a duration only describes the file.
    duration = _first(usual, DURATION_COLUMNS) if cut["offset"] and not cut["end"] else None
    if not cut["offset"]:
        cut["end"] = None
    also = usual.get(AS_SPOKEN.get(str(text).casefold(), "")) if columns.text is None else None
    roles = Roles(str(audio), (str(text), *([also] if also else [])), speaker, place, duration=duration, **cut)
    is_at_word = speaker is not None and columns.speaker_from not in (None, COLUMN)
    counted_anew = corpus is not None and corpus.labels_within_recordings and speaker and not is_at_word
    attributes = attributes_of_header(header, roles.columns)
    about = [usual_speaker] if (usual_speaker := _first(usual, SPEAKER_COLUMNS)) else []
    return replace(
        roles,
        recording=_first(usual, RECORDING_COLUMNS) if counted_anew else None,
        video=_first(usual, VIDEO_COLUMNS) if place == VIDEO else None,
        about_speaker=() if is_at_word else (*about, *(attributes[n] for n in ABOUT_THE_SPEAKER if n in attributes)),
        is_at_word=is_at_word,
        attributes=attributes,
    )


def _first(usual: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((usual[name] for name in names if name in usual), None)


def _picked(wanted: str | None, names: Sequence[str], header: Sequence[str], usual: Mapping[str, str]) -> str | None:
    """Return the column that the user named, if there is one, or the first of a usual name."""
    if wanted:
        return wanted if wanted in header else None
    return _first(usual, names)


def _audio_column(
    header: Sequence[str], usual: Mapping[str, str], columns: Columns, files_of: Callable[[str], int] | None
) -> str | None:
    """Return the audio column: of those with usual names, the one whose files exist. A video's file has its id."""
    if columns.audio:
        return columns.audio if columns.audio in header else None
    found = [usual[name] for name in (*AUDIO_COLUMNS, *VIDEO_COLUMNS) if name in usual]
    return max(found, key=files_of) if files_of and len(found) > 1 else next(iter(found), None)


def _speaker_source(
    header: Sequence[str], usual: Mapping[str, str], columns: Columns, one_voice: bool
) -> tuple[str | None, str | None]:
    """Return (place, column) of the speaker, both None if nothing was found. A column called like a place is first."""
    wanted = columns.speaker_from
    if wanted in PLACES and wanted not in header:
        return wanted, None
    found = _picked(None if wanted == COLUMN and wanted not in header else wanted, SPEAKER_COLUMNS, header, usual)
    if found or wanted:
        return None, found
    if one_voice:
        return ONE_SPEAKER, None
    return (VIDEO, None) if _first(usual, VIDEO_COLUMNS) else (None, None)


def unread_times(header: Sequence[str], roles: Roles, rows: Sequence[Row]) -> list[str]:
    """Return a fault for each column that seems to be a time of cuts and is not read, because files would be whole."""
    faults = []
    for name in header:
        values = [row.get(name) for row in rows]
        numbers = [str(value) for value in values if re.fullmatch(r"[0-9]+\.?[0-9]*", str(value).strip())]
        if name not in roles.columns and LIKE_A_TIME.search(name.casefold()) and 2 * len(numbers) > len(values):
            if any(float(number) for number in numbers):
                faults.append(
                    f"column {name} looks like a time of cuts, such as {numbers[-1]}, but is not read; call the "
                    "columns start and end, in seconds, or give it another name"
                )
    return faults


def other_lengths(header: Sequence[str], roles: Roles, rows: Sequence[tuple[str, Row]]) -> list[str]:
    """Return a fact if a few rows state another length than that between start and end, which is the cut.

    If most rows do, the column is another length, such as that of the file.

    Args:
        rows: (place, row).
    """
    column = _first(by_usual_name(header), DURATION_COLUMNS)
    if not (roles.offset and roles.end and column):
        return []
    differ, stated = [], 0
    for where, row in rows:
        try:
            length, (_, duration, _) = _seconds(row, column), cut_in(row, roles)
        except WrongValue:
            continue  # it is named when the rows are added
        if length is not None and duration is not None:
            stated += 1
            differ += [where] if abs(length - duration) > ROUNDED_LENGTH else []
    if not 0 < 2 * len(differ) <= stated:
        return []
    shown = "; ".join(PurePath(where).name for where in differ[:3]) + ("; ..." if len(differ) > 3 else "")
    return [f"rows whose {column} is not {roles.end} - {roles.offset}, which is the cut: {len(differ)} ({shown})"]


def text_in(row: Row, roles: Roles) -> str:
    """Return the text of a row; an empty string if it has none.

    Raises:
        WrongValue: if the value is no string.
    """
    for name in roles.texts:
        value = row.get(name)
        if isinstance(value, str) and value.strip().casefold() in MISSING_VALUES:
            raise WrongValue(f"{name} is {value!r}, which stands for a missing value; write the text")
        if value is not None and not isinstance(value, str):
            raise WrongValue(f"{name} must be a string, not {shown(value)}")
        if value and value.strip():
            return value
    return ""


def speaker_in(row: Row, roles: Roles, audio: str) -> str:
    """Return the speaker of a row; an empty string if the row names none (also null and NaN).

    Args:
        audio: the name of the audio file.

    Raises:
        WrongValue: if the value is neither a string nor a whole number.
        NotOneVoice: if the row says that there are several speakers, or that the speaker is unknown.
    """
    for column in roles.about_speaker:
        check_is_one_voice(row.get(column), column)
    if roles.speaker is None:
        video = label_of(row.get(roles.video), roles.video) if roles.video else ""
        return speaker_at(roles.speaker_from or ONE_SPEAKER, audio, video)
    label = label_of(row.get(roles.speaker), roles.speaker)
    if label and not roles.is_at_word:
        check_is_known(label, roles.speaker)
    if not label or roles.recording is None:
        return label
    if not (recording := recording_of(row.get(roles.recording))):
        raise WrongValue(f"column {roles.recording} names no recording, within which {label!r} is one voice")
    return f"{recording}/{label}"


def cut_in(row: Row, roles: Roles) -> tuple[float | None, float | None, int | None]:
    """Return (offset, duration, channel) of a row; None where the row names none.

    Raises:
        WrongValue: if a time is no number of seconds, or a channel is none.
    """
    offset, end, duration = (_seconds(row, name) for name in (roles.offset, roles.end, roles.duration))
    if end is not None:
        duration = end - (offset or 0.0)
    if duration is not None and duration <= 0:
        raise WrongValue(f"a cut from {offset or 0:g} s of {duration:g} s is impossible; start < end is needed")
    if duration is not None and offset is None:
        offset = 0.0
    return offset, duration, channel_of(row.get(roles.channel), roles.channel) if roles.channel else None


def _seconds(row: Row, name: str | None) -> float | None:
    value = row.get(name) if name else None
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise WrongValue(f"{name} must be a number of seconds, not {shown(value)}")
    return seconds_value(str(value), str(name))
