"""The utterances of a collection of speech in any form, and the problems that prevent its use."""

import errno
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from boson_multimodal.audio_processing.sound_files import Clip, read_samples, sound_length
from boson_multimodal.chatml import text_problem
from boson_multimodal.errors import InputError
from boson_multimodal.progress import progress
from voice_cloning.corpora.known_corpora import KnownCorpus
from voice_cloning.corpora.source_files import control_problem

READ_THREADS = 8
ONE_SPEAKER = "one"
"""Value of ``--speaker_from`` for a collection with a single voice."""
LATEST_END = 0.5
"""Seconds that a cut may end after its file's end, because lists round times. Kaldi allows as much."""
ROUNDING = 0.02
"""Seconds by which times that were rounded to two digits may differ without a word."""
OWN_KEYS = ("sample_id", "ref_transcript", "target_transcript", "duration")
"""Names in the ``misc`` of a record that no attribute of a source replaces."""


@dataclass(frozen=True)
class Cell:
    """Audio inside a file of a data set.

    Attributes:
        path: an Arrow or Parquet file.
        column: the name of the audio column.
        row: the row, counted from 0 over the whole file.
        name: the name of the clip file to write.
        rate_column: the column with the rate, if the audio column holds bare samples.
        cut: (offset, duration) in seconds, if the row holds more than the utterance.
    """

    path: Path
    column: str
    row: int
    name: str
    rate_column: str | None = None
    cut: tuple[float, float] | None = None


@dataclass(frozen=True)
class Member:
    """Audio inside a tar archive.

    Attributes:
        path: the archive.
        offset, size: the place of the file in the archive, in bytes.
        name: the name of the clip file to write.
        cut: (offset, duration) in seconds, if the file holds more than the utterance.
    """

    path: Path
    offset: int
    size: int
    name: str
    cut: tuple[float, float] | None = None


@dataclass(frozen=True)
class Channel:
    """One channel of an audio file. Training mixes channels, so the cut is written as a clip of its own.

    Attributes:
        number: counted from 0.
        name: the name of the clip file to write.
    """

    path: Path
    number: int
    name: str = field(compare=False)


@dataclass(frozen=True)
class Utterance:
    """One utterance of one speaker.

    Attributes:
        utterance_id: unique in the collection.
        audio: the file of its audio, one channel of a file, a cell of a data set, or a member of an archive.
        offset, duration: the cut of that file, in seconds; None for the file's start and end.
        where: the file and line that name the utterance, for messages.
        seconds: the length; 0 before :func:`measure`.
        misc: what the source says besides, such as dialect and gender (``attributes.ATTRIBUTE_COLUMNS``); each record
            carries it in its ``misc``.
    """

    utterance_id: str
    audio: Path | Channel | Cell | Member
    text: str
    speaker: str
    where: str
    offset: float | None = None
    duration: float | None = None
    seconds: float = 0.0
    misc: Mapping[str, str | int | float] = field(default_factory=dict, compare=False)

    @property
    def file(self) -> Path | None:
        """The audio file; None for audio inside a data set or an archive."""
        audio = self.audio.path if isinstance(self.audio, Channel) else self.audio
        return audio if isinstance(audio, Path) else None


@dataclass
class Collection:
    """The content of a source.

    Attributes:
        form: one of the names of ``--format``.
        utterances: all entries that name audio, those with problems too.
        problems: (place, what is wrong there) of each entry that cannot be used.
        faults: what is wrong with the source as a whole; leaving out entries does not help.
        facts: what was taken for what, one line each, for the user to read.
        aside: files and folders that hold no data.
        table: the table that was read, if it was one.
        corpus: the public corpus that the source is; None if it is none of those that are known.
        left_aside: what an entry lacks -> the places of the entries that are not used because the source is so; this
            is no problem.
        speaker_from: a value of ``--speaker_from`` that is no column, if the speakers come from there.
        licences: those that the README of the source names.
        speaker_is_guessed: whether neither the user nor a column or list says who speaks.
    """

    form: str
    utterances: list[Utterance] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    speaker_is_guessed: bool = False
    speaker_from: str | None = None
    table: Path | None = None
    corpus: KnownCorpus | None = None
    licences: list[str] = field(default_factory=list)
    left_aside: dict[str, list[str]] = field(default_factory=dict)

    def leave_aside(self, reason: str, where: str) -> None:
        """Note that the entry of a place is not used, because of what the source says about it."""
        self.left_aside.setdefault(reason, []).append(where)

    def refuse(self, where: str, problem: str) -> None:
        """Note that the entry of a place cannot be used."""
        self.problems.append((where, problem))

    def add(self, utterance: Utterance) -> None:
        """Add an utterance with its text on one line; a missing or wrong text or speaker becomes a problem.

        Attributes with a name of ``OWN_KEYS`` are left out.
        """
        text = " ".join(utterance.text.split())
        where = utterance.where
        if not text:
            self.refuse(where, "the text is empty; write what is said, or remove the entry")
        elif reason := text_problem(text) or control_problem(text):
            self.refuse(where, reason)
        if not utterance.speaker.strip():
            self.refuse(where, "no speaker is named; name one, or give --speaker_from one")
        for name in (utterance.utterance_id, utterance.speaker):
            if reason := control_problem(name):
                self.refuse(where, reason)
        misc = {name: value for name, value in utterance.misc.items() if name not in OWN_KEYS}
        self.utterances.append(replace(utterance, text=text, speaker=utterance.speaker.strip(), misc=misc))

    def check_repeats(self) -> None:
        """Add a problem for each utterance whose id, or whose audio, another one has too."""
        for what, places in self._places(lambda u: u.utterance_id).items():
            self._refuse_all(places, f"{what}: {len(places)} utterances have this id")
        ids = {utterance.where: utterance.utterance_id for utterance in self.utterances}
        for (audio, *_), places in self._places(lambda u: (u.audio, u.offset, u.duration)).items():
            if len({ids[where] for where in places}) > 1:
                self._refuse_all(places, f"{len(places)} utterances have the audio {getattr(audio, 'path', audio)}")

    def _places(self, key: Callable[[Utterance], Hashable]) -> dict[Any, list[str]]:
        """Return the places of the utterances with a key, for each key that several have."""
        places: dict[Any, list[str]] = defaultdict(list)
        for utterance in self.utterances:
            places[key(utterance)].append(utterance.where)
        return {name: found for name, found in places.items() if len(found) > 1}

    def _refuse_all(self, places: Sequence[str], problem: str) -> None:
        shown = ", ".join(places[:3])
        for where in places:
            self.refuse(where, f"{problem} ({shown}); keep one")

    def usable(self) -> list[Utterance]:
        """Return the utterances without a problem."""
        refused = {where for where, _ in self.problems}
        return [utterance for utterance in self.utterances if utterance.where not in refused]


def seconds_of(audio: Path | bytes, name: str) -> float:
    """Return the length of an audio file in seconds, as :func:`sound_length` gives it.

    Raises:
        InputError: if the file is missing, unreadable, empty or not whole.
    """
    return _sound_of(audio, name)[0]


def _sound_of(audio: Path | bytes, name: str) -> tuple[float, int]:
    """Return the seconds and the channels."""
    if isinstance(audio, Path):
        try:
            os.stat(audio)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise InputError(f"{name}: no such file") from error
            raise InputError(f"{name}: cannot be read ({error.strerror})") from error
    length = sound_length(audio, name)
    if length.holds_floats:  # samples of other formats cannot be NaN or far beyond full scale
        read_samples(Clip(audio, 0.0, None), name)
    return length.seconds, length.channels


def measure(collection: Collection) -> None:
    """Give the utterances their lengths. A file that is missing, unreadable or too short becomes a problem."""
    files = list(dict.fromkeys(u.file for u in collection.utterances if u.file is not None))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found_lengths = progress(pool.map(_length, files), "reading lengths", len(files), unit="file")
        sounds = dict(zip(files, found_lengths, strict=True))
    late = mixed = 0
    for i, utterance in enumerate(collection.utterances):
        sound = (utterance.seconds, 1) if utterance.file is None else sounds[utterance.file]
        if isinstance(sound, str):
            collection.refuse(utterance.where, sound)
            continue
        length, channels = sound
        seconds, problem = _cut(utterance, length)
        problem = problem or _channel_problem(utterance, channels, collection.form)
        if problem:
            collection.refuse(utterance.where, problem)
        else:
            late += seconds + ROUNDING < (utterance.duration or 0.0)
        mixed += channels > 1 and not isinstance(utterance.audio, Channel)
        if isinstance(utterance.audio, Channel) and channels == 1 and not problem:
            utterance = replace(utterance, audio=utterance.audio.path)  # the only channel needs no clip of its own
        collection.utterances[i] = replace(utterance, seconds=seconds)
    if late:
        collection.facts.append(f"cuts that end up to {LATEST_END} s after their file and are shortened: {late}")
    if mixed:
        collection.facts.append(f"clips of several channels, which are mixed to one: {mixed}")
    _refuse_voices_at_once(collection, {file: sound[1] for file, sound in sounds.items() if not isinstance(sound, str)})


def _cut(utterance: Utterance, length: float) -> tuple[float, str | None]:
    """Return the seconds of an utterance in a file of this length, and what is wrong with its cut."""
    start = utterance.offset or 0.0
    rest = length - start
    seconds = rest if utterance.duration is None else min(rest, utterance.duration)
    if seconds <= 0:
        return seconds, f"starts at {start:g} s of {utterance.file}, which lasts {length:g} s"
    if utterance.duration is not None and utterance.duration > rest + LATEST_END:
        end = start + utterance.duration
        return seconds, f"ends at {end:g} s of {utterance.file}, which lasts {length:g} s; times are in seconds"
    return seconds, None


def _channel_problem(utterance: Utterance, channels: int, form: str) -> str | None:
    if isinstance(utterance.audio, Channel) and utterance.audio.number >= channels:
        return f"channel {utterance.audio.number}: {utterance.file} has {channels}, counted from 0"
    if isinstance(utterance.audio, Path) and channels > 1 and form == "kaldi":  # Kaldi's own programs refuse it too
        return (
            f"{utterance.file} has {channels} channels, and none is named, so voices would be mixed; name it as fifth "
            "field in segments, or in reco2file_and_channel"
        )
    return None


def _refuse_voices_at_once(collection: Collection, channels: dict[Path, int]) -> None:
    """Refuse cuts of a file with several channels if two speakers have the same time, because they would be mixed."""
    by_file: dict[Path, list[Utterance]] = defaultdict(list)
    for utterance in collection.utterances:
        if isinstance(utterance.audio, Path) and utterance.offset is not None and channels.get(utterance.audio, 1) > 1:
            by_file[utterance.audio].append(utterance)
    for file, cuts in by_file.items():
        cuts.sort(key=lambda cut: cut.offset)
        for one, other in zip(cuts, cuts[1:], strict=False):
            shared = min(one.offset + one.seconds, other.offset + other.seconds) - other.offset
            if one.speaker != other.speaker and shared > min(one.seconds, other.seconds) / 2:
                for cut in (one, other):
                    collection.refuse(
                        cut.where,
                        f"{file} has {channels[file]} channels, and two speakers have the same time in it; name the "
                        "channel of each in a column called channel",
                    )


def _length(path: Path) -> tuple[float, int] | str:
    """Return the length in seconds and the channels, or the problem."""
    try:
        return _sound_of(path, str(path))
    except InputError as error:
        return str(error)


def speakers_of(utterances: Iterable[Utterance]) -> set[str]:
    """Return the names of the speakers."""
    return {utterance.speaker for utterance in utterances}
