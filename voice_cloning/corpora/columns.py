"""Says which column of a table is the audio, the text, the speaker and the cut, and reads their values strictly.

The columns of a table with a header have usual names, or the user names them. Those of a list without a header are told
apart by what they hold.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from boson_multimodal.errors import InputError
from voice_cloning.corpora.source_files import first_part
from voice_cloning.corpora.utterances import ONE_SPEAKER

AUDIO_COLUMNS = (
    *(
        "path",
        "audio",
        "file_name",
        "audio_path",
        "audio_file",
        "audio_filepath",
        "file",
        "filename",
        "wav",
        "wav_path",
    ),
    *("wav_filename", "audio_filename", "original_wav"),
)
TEXT_COLUMNS = (
    "sentence",
    "text",
    "transcript",
    "transcription",
    "normalized_text",
    "raw_text",
    "normalized_transcript",
    "orthographic",
    "cleaned_text",
)
SPEAKER_COLUMNS = ("client_id", "speaker_id", "speaker", "speaker_name", "spk_id", "spk", "speaker_label")
CUT_COLUMNS = {
    "offset": ("offset", "start", "start_time", "start_sec", "begin", "segment_start", "segmentstart"),
    "end": ("end", "end_time", "end_sec", "stop", "segment_end", "segmentend"),
    "channel": ("channel", "channel_id", "channel_selector"),
}
DURATION_COLUMNS = ("duration", "segment_length", "segmentlength")
LIKE_A_TIME = re.compile("start|begin|onset|offset|stop|xmin|xmax|(?:^|_)(?:end|from|to|t0|t1)(?:_|$)")
"""Names of columns that may be times of cuts."""
LJSPEECH_COLUMNS = ("id", "text", "normalized_text")
FOLDER, NAME = "folder", "name"
"""Values of ``--speaker_from`` for the name of the clip's folder, and for the first part of the clip's name."""
MISSING_VALUES = {"nan", "null", "none", "<na>", "n/a"}
"""What programs write for a missing value."""
CHANNELS = {"A": 0, "B": 1, "L": 0, "R": 1}
SAMPLE_ROWS = 50
"""Rows whose files are looked for, to tell the audio column."""
MOST_LABEL_WORDS = 3
SHARED_WORDS = 0.4
"""Share of the words of the longer text that a text and its normalised form have in common at least."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """The columns that the user named; None stands for a column with a usual name.

    Attributes:
        speaker_from: a column; ``folder`` or ``name`` of the clip; ``one`` for a single voice.
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
        speaker_from: ``folder``, ``name`` or ``one``; None for a column.
    """

    audio: str
    texts: tuple[str, ...]
    speaker: str | None = None
    speaker_from: str | None = None
    offset: str | None = None
    end: str | None = None
    duration: str | None = None
    channel: str | None = None

    def facts(self, header: Sequence[str]) -> list[str]:
        """Return what was taken for what, for the user."""
        text = " or, where it is empty, ".join(self.texts)
        facts = [f"audio: column {self.audio}", f"text: column {text}", f"speaker: {self.speaker_fact}"]
        cut = [name for name in (self.offset, self.end, self.duration) if name]
        if cut:
            facts.append(f"cut: columns {', '.join(cut)}")
        if self.channel:
            facts.append(f"channel: column {self.channel}")
        used = {self.audio, *self.texts, self.speaker, *cut, self.channel}
        if left := [name for name in header if name not in used]:
            facts.append(f"columns that are not used: {', '.join(left)}")
        return facts

    @property
    def speaker_fact(self) -> str:
        """Where the speaker comes from, for the user."""
        if self.speaker:
            return f"column {self.speaker}"
        return {
            FOLDER: "the name of the clip's folder",
            NAME: "the part of the clip's name before the first _ or -",
            ONE_SPEAKER: "one voice for all",
        }[self.speaker_from or ONE_SPEAKER]


def roles_of_header(header: Sequence[str], columns: Columns, where: str) -> Roles:
    """Return the roles of named columns. Upper and lower case are the same in usual names.

    Raises:
        InputError: naming every column that is unknown or was not found.
    """
    problems = [
        f"{where}: {name} names {n} columns; give each its own name" for name, n in Counter(header).items() if n > 1
    ]
    usual = {name.casefold(): name for name in reversed(header)}
    flags = (("--audio_column", columns.audio, AUDIO_COLUMNS), ("--text_column", columns.text, TEXT_COLUMNS))
    place = columns.speaker_from if columns.speaker_from in (ONE_SPEAKER, FOLDER, NAME) else None
    place = None if place in header else place
    if place is None:
        flags += (("--speaker_from", columns.speaker_from, SPEAKER_COLUMNS),)
    picked: list[str | None] = []
    for flag, wanted, names in flags:
        found = wanted if wanted in header else None if wanted else next((usual[n] for n in names if n in usual), None)
        picked.append(found)
        if not found and wanted:
            problems.append(f"{flag} {wanted}: unknown column; {where} has {list(header)}")
        elif not found:
            other = ""
            if flag == "--speaker_from":
                other = ", or one for a single voice, folder for the clip's folder, name for the first part of its name"
            problems.append(
                f"{flag}: name a column{other}; none of {list(names)} is a column of {where}, which has {list(header)}"
            )
    if problems:
        raise InputError("\n".join(problems))
    audio, text, *speaker = picked
    cut = {role: next((usual[n] for n in names if n in usual), None) for role, names in CUT_COLUMNS.items()}
    # Without a start, a duration only describes the file.
    durations = (usual[name] for name in DURATION_COLUMNS if name in usual)
    duration = next(durations, None) if cut["offset"] and not cut["end"] else None
    if not cut["offset"]:
        cut["end"] = None
    return Roles(str(audio), (str(text),), speaker[0] if speaker else None, place, duration=duration, **cut)


def unread_times(header: Sequence[str], roles: Roles, rows: Sequence[Row]) -> list[str]:
    """Return a fault for each column that seems to be a time of cuts and is not read, because files would be whole."""
    read = {roles.audio, *roles.texts, roles.speaker, roles.offset, roles.end, roles.duration, roles.channel}
    faults = []
    for name in header:
        values = [row.get(name) for row in rows]
        numbers = [str(value) for value in values if re.fullmatch(r"[0-9]+\.?[0-9]*", str(value).strip())]
        if name not in read and LIKE_A_TIME.search(name.casefold()) and 2 * len(numbers) > len(values):
            if any(float(number) for number in numbers):
                faults.append(
                    f"column {name} looks like a time of cuts, such as {numbers[-1]}, but is not read; call the "
                    "columns start and end, in seconds, or give it another name"
                )
    return faults


def roles_of_list(rows: Sequence[Row], columns: Columns, where: str, exists: Callable[[str], bool]) -> Roles:
    """Return the roles of the columns of a list without a header, by what they hold. Their names are 1, 2, 3...

    The audio column names files that exist. A text has Arabic letters or spaces. A speaker repeats like a label. Two
    texts that resemble each other are a text and its normalised form, as in LJSpeech.

    Raises:
        InputError: if a column cannot be told apart; it says what each column looks like.
    """
    names = list(rows[0])
    aliases = dict(zip(LJSPEECH_COLUMNS, names, strict=False))
    named = {
        flag: aliases.get(wanted, wanted) if wanted else None
        for flag, wanted in (("--audio_column", columns.audio), ("--text_column", columns.text))
    }
    place = columns.speaker_from if columns.speaker_from in (ONE_SPEAKER, FOLDER, NAME) else None
    named["--speaker_from"] = None if place else columns.speaker_from
    if unknown := [
        f"{flag} {wanted}: unknown column" for flag, wanted in named.items() if wanted and wanted not in names
    ]:
        raise InputError(f"{'; '.join(unknown)}; {where} has no header; its columns are {names}")
    held = {name: _Held.of([row[name].strip() for row in rows]) for name in names}
    audio = named["--audio_column"] or max(
        names, key=lambda name: sum(bool(row[name].strip()) and exists(row[name].strip()) for row in rows[:SAMPLE_ROWS])
    )
    rest = [name for name in names if name not in (audio, named["--speaker_from"])]
    texts = [named["--text_column"]] if named["--text_column"] else _texts(rest, held, rows, where)
    speaker = named["--speaker_from"]
    if not speaker and not place:
        other = [name for name in rest if name not in texts and (held[name].is_label or not held[name].is_text)]
        speaker = _speaker(other, held, where)
    return Roles(audio, tuple(texts), speaker, place or (None if speaker else ONE_SPEAKER))


@dataclass(frozen=True)
class _Held:
    """What a column of a list holds."""

    rows: int
    distinct: int
    is_language: bool
    numbers: float
    arabic: float
    spaced: float
    words: float

    @classmethod
    def of(cls, values: Sequence[str]) -> "_Held":
        filled = [value for value in values if value] or [""]
        share = 1 / len(filled)
        return cls(
            rows=len(filled),
            distinct=len(set(filled)),
            is_language=all(re.fullmatch("(?:[A-Za-z]{2}(?:[-_][A-Za-z]{2})?)?", value) for value in filled),
            numbers=share * sum(has_no_letter(value) for value in filled),
            arabic=share * sum(re.search("[\u0620-\u064a\u0671-\u06d3]", value) is not None for value in filled),
            spaced=share * sum(" " in value for value in filled),
            words=share * sum(len(value.split()) for value in filled),
        )

    @property
    def is_label(self) -> bool:
        """Whether the values repeat like labels: short, and each of them twice or more on the average."""
        return 2 * self.distinct <= self.rows and self.words <= (1.5 if self.arabic > 0.5 else MOST_LABEL_WORDS)

    @property
    def is_text(self) -> bool:
        return self.numbers < 0.5 and max(self.arabic, self.spaced) >= 0.5

    def __str__(self) -> str:
        kind = "a number" if self.numbers >= 0.5 else "a text" if self.is_text and not self.is_label else "a name"
        return f"{kind}, {self.distinct} different ones in {self.rows} rows"


def _texts(names: Sequence[str], held: Mapping[str, _Held], rows: Sequence[Row], where: str) -> list[str]:
    """Return the text column; of a text and its normalised form, the normalised one first."""
    candidates = [name for name in names if held[name].is_text]
    found = [name for name in candidates if not held[name].is_label] or candidates
    if len(found) == 2 and _resemble([(row[found[0]], row[found[1]]) for row in rows]):
        return [found[1], found[0]]
    if len(found) != 1:
        seen = "; ".join(f"column {name} holds {held[name]}" for name in names)
        problem = "several columns read like a text" if found else "no column reads like a text"
        raise InputError(f"{where}: has no header, and {problem}; name it with --text_column NUMBER ({seen})")
    return found


def _resemble(pairs: Sequence[tuple[str, str]]) -> bool:
    """Return whether most pairs share many of their words, or one of the two is empty."""
    alike = 0
    for one, other in pairs:
        words = set(one.split()), set(other.split())
        alike += not all(words) or len(words[0] & words[1]) >= SHARED_WORDS * max(map(len, words))
    return 2 * alike > len(pairs)


def _speaker(names: Sequence[str], held: Mapping[str, _Held], where: str) -> str | None:
    labels = [name for name in names if held[name].is_label and held[name].distinct > 1]
    if len(labels) > 1:
        seen = "; ".join(f"column {name} holds {held[name]}" for name in names)
        raise InputError(
            f"{where}: has no header, and several columns repeat like a speaker; give --speaker_from NUMBER ({seen})"
        )
    varied = [name for name in names if held[name].distinct > 1]
    if not labels and varied:
        seen = "; ".join(f"column {name} holds {held[name]}" for name in varied)
        raise InputError(
            f"{where}: has no header, and no column repeats like a speaker; give --speaker_from NUMBER, or one for a "
            f"single voice ({seen})"
        )
    if labels:
        return labels[0]
    # A value that never changes is the one speaker, or the language, which some lists name beside it.
    single = [name for name in names if not held[name].is_language]
    return single[0] if len(single) == 1 else None


def has_no_letter(value: str) -> bool:
    """Return whether a value is a bare number or sign."""
    return not any(character.isalpha() for character in value)


class WrongValue(ValueError):
    """A value of a row is not what its column holds. The message says what would be right."""


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
            raise WrongValue(f"{name} must be a string, not {_shown(value)}")
        if value and value.strip():
            return value
    return ""


def speaker_in(row: Row, roles: Roles, audio: str) -> str:
    """Return the speaker of a row; an empty string if the row names none (also null and NaN).

    Raises:
        WrongValue: if the value is neither a string nor a whole number.
    """
    if roles.speaker is None:
        folder = PurePosixPath(audio.replace("\\", "/")).parent.name
        return {FOLDER: folder, NAME: first_part(audio)}.get(roles.speaker_from or "", ONE_SPEAKER)
    value = row.get(roles.speaker)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise WrongValue(f"{roles.speaker} must be a name or a whole number, not {_shown(value)}")
    name = str(value).strip()
    return "" if name.casefold() in MISSING_VALUES else name


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
        raise WrongValue(f"{name} must be a number of seconds, not {_shown(value)}")
    return seconds_value(str(value), str(name))


def seconds_value(value: str, name: str) -> float:
    """Return a time in seconds.

    Raises:
        WrongValue: if it is no number, not finite, or negative.
    """
    text = value.strip()
    # float() also takes nan, infinity and 1_000.
    if not re.fullmatch(r"[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]{1,2})?|\.[0-9]+", text) or math.isinf(float(text)):
        raise WrongValue(f"{name} must be a number of seconds of at least 0, not {value!r}")
    return float(text)


def channel_of(value: Any, name: str | None) -> int | None:
    """Return a channel, counted from 0; None if none is named. ``A`` and ``L`` are 0, ``B`` and ``R`` are 1.

    Raises:
        WrongValue: if it is no channel.
    """
    if value is None or value == "":
        return None
    text = str(value).strip().upper()
    if text in CHANNELS:
        return CHANNELS[text]
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,3}", text):
        raise WrongValue(f"{name} must be a channel, counted from 0, or A or B, not {_shown(value)}")
    return int(text)


def _shown(value: Any) -> str:
    shown = repr(value)
    return f"{shown[:60]}..." if len(shown) > 60 else shown
