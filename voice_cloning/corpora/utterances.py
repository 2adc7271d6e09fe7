"""The utterances of a collection of speech in any form, and the problems that prevent its use."""

import io
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import soundfile

from boson_multimodal.chatml import text_problem
from boson_multimodal.errors import InputError
from boson_multimodal.progress import progress

READ_THREADS = 8
ONE_SPEAKER = "one"
"""Value of ``--speaker_from`` for a collection with a single voice."""


@dataclass(frozen=True)
class Cell:
    """Audio inside a file of a data set.

    Attributes:
        path: an Arrow or Parquet file.
        column: the name of the audio column.
        row: the row, counted from 0 over the whole file.
        name: the name of the clip file to write.
    """

    path: Path
    column: str
    row: int
    name: str


@dataclass(frozen=True)
class Utterance:
    """One utterance of one speaker.

    Attributes:
        utterance_id: unique in the collection.
        audio: the file of its audio, or a cell of a data set.
        offset, duration: the cut of that file, in seconds; None for the file's start and end.
        where: the file and line that name the utterance, for messages.
        seconds: the length; 0 before :func:`measured`.
    """

    utterance_id: str
    audio: Path | Cell
    text: str
    speaker: str
    where: str
    offset: float | None = None
    duration: float | None = None
    seconds: float = 0.0


@dataclass
class Collection:
    """The content of a source.

    Attributes:
        form: one of the names of ``--format``.
        problems: every reason why the collection cannot be used.
    """

    form: str
    utterances: list[Utterance] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, utterance: Utterance) -> None:
        """Add an utterance with its text on one line; a missing or wrong text or speaker becomes a problem."""
        text = " ".join(utterance.text.split())
        if not text:
            self.problems.append(f"{utterance.where}: the text is empty; write what is said, or remove the entry")
        elif reason := text_problem(text):
            self.problems.append(f"{utterance.where}: {reason}")
        if not utterance.speaker.strip():
            self.problems.append(f"{utterance.where}: no speaker is named; name one, or give --speaker_from one")
        self.utterances.append(replace(utterance, text=text, speaker=utterance.speaker.strip()))

    def check_ids(self) -> None:
        """Add a problem for each id that several utterances have."""
        counts = Counter(u.utterance_id for u in self.utterances)
        wheres: dict[str, list[str]] = {name: [] for name, count in counts.items() if count > 1}
        for utterance in self.utterances:
            if utterance.utterance_id in wheres:
                wheres[utterance.utterance_id].append(utterance.where)
        self.problems += [
            f"{name}: {len(places)} utterances have this id ({', '.join(places[:3])}); keep one"
            for name, places in wheres.items()
        ]


def seconds_of(audio: Path | bytes, name: str) -> float:
    """Return the length of an audio file in seconds, from its header.

    Raises:
        InputError: if the file is missing, unreadable or empty.
    """
    if isinstance(audio, Path) and not os.path.isfile(audio):
        raise InputError(f"{name}: no such file")
    try:
        info = soundfile.info(io.BytesIO(audio) if isinstance(audio, bytes) else str(audio))
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise InputError(f"{name}: not readable as audio ({error}); give WAV, FLAC, OGG or MP3") from error
    if info.frames == 0:
        raise InputError(f"{name}: empty audio")
    return info.frames / info.samplerate


def measured(collection: Collection) -> list[Utterance]:
    """Return the utterances with their lengths; a file that is missing, unreadable or too short becomes a problem."""
    files = list(dict.fromkeys(u.audio for u in collection.utterances if isinstance(u.audio, Path)))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found_lengths = progress(pool.map(_length, files), "reading lengths", len(files), unit="file")
        lengths = dict(zip(files, found_lengths, strict=True))
    found = []
    for utterance in collection.utterances:
        length = lengths.get(utterance.audio, utterance.seconds)
        if isinstance(length, str):
            collection.problems.append(f"{utterance.where}: {length}")
            continue
        rest = length - (utterance.offset or 0.0)
        seconds = rest if utterance.duration is None else min(rest, utterance.duration)
        if seconds <= 0:
            collection.problems.append(
                f"{utterance.where}: starts at {utterance.offset:g} s of {utterance.audio}, which lasts {length:g} s"
            )
        found.append(replace(utterance, seconds=seconds))
    return found


def _length(path: Path) -> float | str:
    """Return the length in seconds, or the problem."""
    try:
        return seconds_of(path, str(path))
    except InputError as error:
        return str(error)
