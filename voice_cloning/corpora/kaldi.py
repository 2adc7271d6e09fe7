"""Reads Kaldi's lists: ``wav.scp``, ``text`` and ``utt2spk``, with ``segments`` for cuts of recordings."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from boson_multimodal.errors import InputError
from voice_cloning.corpora.cell_values import WrongValue, channel_of, seconds_value
from voice_cloning.corpora.columns import Columns
from voice_cloning.corpora.source_files import control_problem, find_audio, read_lines
from voice_cloning.corpora.tables import clip_file_name
from voice_cloning.corpora.utterances import Channel, Collection, Utterance

KALDI_FILES = ("wav.scp", "text", "utt2spk")
SEGMENTS = "segments"
CHANNELS = "reco2file_and_channel"


@dataclass(frozen=True)
class _Cut:
    """A cut of a recording, in seconds; a duration of None reaches to the recording's end."""

    recording: str
    offset: float | None = None
    duration: float | None = None
    channel: int | None = None


def read_kaldi(source: Path, columns: Columns, encoding: str | None = None) -> Collection:
    """Read Kaldi's lists. An utterance that is missing in one of them is a problem.

    The channel is the fifth field of ``segments``, or that of the recording in ``reco2file_and_channel``.

    Raises:
        InputError: if a list is missing, or the user named columns.
    """
    if columns != Columns():
        raise InputError(
            f"{source}: Kaldi's lists have no named columns, and utt2spk names the speakers; leave out --audio_column, "
            "--text_column and --speaker_from"
        )
    if absent := [name for name in KALDI_FILES if not (source / name).is_file()]:
        raise InputError(f"{source}: {', '.join(absent)} missing; Kaldi's form needs {', '.join(KALDI_FILES)}")
    lists = _Lists(source, Collection("kaldi"), encoding)
    recordings = _recordings(lists)
    channels = _channels_of_recordings(lists) if (source / CHANNELS).is_file() else {}
    are_cut = (source / SEGMENTS).is_file()
    cuts = _segments(lists) if are_cut else {name: _Cut(name) for name in recordings}
    speakers = _speakers(lists)
    texts = lists.read("text")
    collection = lists.collection
    for name, (where, text) in texts.items():
        if name not in speakers:
            collection.refuse(where, f"{name} has no speaker in utt2spk")
        elif name not in cuts and are_cut:
            collection.refuse(where, f"{name} has no cut in segments")
        elif (cut := cuts.get(name, _Cut(name))).recording not in recordings:
            collection.refuse(where, f"{cut.recording} has no audio file in wav.scp")
        elif path := recordings[cut.recording]:
            channel = channels.get(cut.recording) if cut.channel is None else cut.channel
            number = len(collection.utterances)
            audio = path if channel is None else Channel(path, channel, clip_file_name(number, name))
            collection.add(Utterance(name, audio, text, speakers[name], where, cut.offset, cut.duration))
    for name in [name for name in cuts if name not in texts]:
        collection.refuse(f"{source}: {name}", "has audio, but no line in text; add it, or remove it from the lists")
    spoken = {cut.recording for cut in cuts.values()}
    if unused := [name for name in recordings if name not in spoken]:
        collection.facts.append(
            f"recordings of wav.scp without a segment: {len(unused)} ({', '.join(unused[:3])}, ...)"
        )
    return collection


@dataclass(frozen=True)
class _Lists:
    source: Path
    collection: Collection
    encoding: str | None

    def read(self, name: str) -> dict[str, tuple[str, str]]:
        """Return key -> (place, value) of each line ``KEY VALUE``; a repeated key is a problem, and left out."""
        path = self.source / name
        lines = read_lines(path, self.encoding)
        self.collection.problems += lines.problems
        self.collection.facts.append(f"{name}: {len(lines.lines)} lines, {lines.encoding}")
        split = [(line, *_key_and_value(line.text)) for line in lines]
        places: dict[str, list[int]] = defaultdict(list)
        for line, key, _ in split:
            places[key].append(line.number)
        found = {}
        for line, key, value in split:
            if others := [number for number in places[key] if number != line.number]:
                self.collection.refuse(line.where, f"{key} is on line {others[0]} too; keep one of them")
            elif reason := control_problem(key):
                self.collection.refuse(line.where, reason)
            else:
                found[key] = (line.where, value)
        return found


def _key_and_value(line: str) -> tuple[str, str]:
    key, *rest = re.split("[ \t]+", line.strip(" \t"), maxsplit=1)
    return key, "".join(rest)


def _speakers(lists: _Lists) -> dict[str, str]:
    """Return utterance -> speaker, whose name is one word."""
    found = {}
    for name, (where, value) in lists.read("utt2spk").items():
        if len(value.split()) == 1:
            found[name] = value
        else:
            lists.collection.refuse(where, f"it must hold: utterance speaker, not {name} {value}")
    return found


def _recordings(lists: _Lists) -> dict[str, Path | None]:
    """Return recording -> file; None for a command or an archive, which is a problem."""
    found: dict[str, Path | None] = {}
    for name, (where, value) in lists.read("wav.scp").items():
        problem = None
        if value.endswith("|") or value.startswith("|"):
            problem = "is a command, and commands are never run here; run it yourself and name the file that it writes"
        elif ".ark:" in value:
            problem = "points into an archive; write its audio to files (wav-copy) and name these files"
        elif not value:
            problem = "names no file"
        else:
            problem = control_problem(value)
        if problem:
            lists.collection.refuse(where, f"{value!r} {problem}")
        beside = find_audio(lists.source, value) if not problem else lists.source
        found[name] = None if problem else beside if beside.exists() else Path(value).absolute()
    return found


def _channels_of_recordings(lists: _Lists) -> dict[str, int]:
    """Return recording -> channel of ``RECORDING FILE CHANNEL``."""
    found = {}
    for name, (where, value) in lists.read(CHANNELS).items():
        try:
            channel = channel_of(value.split()[-1] if len(value.split()) == 2 else value, "the channel")
        except WrongValue as error:
            lists.collection.refuse(where, f"{error}; a line must hold: recording file channel")
            continue
        if channel is not None:
            found[name] = channel
    return found


def _segments(lists: _Lists) -> dict[str, _Cut]:
    """Return utterance -> cut; an end of -1 is the end of the recording."""
    found = {}
    for name, (where, value) in lists.read(SEGMENTS).items():
        fields = value.split()
        try:
            if len(fields) not in (3, 4):
                raise WrongValue("it must hold: utterance recording start end, and perhaps a channel")
            recording, start, end = fields[:3]
            offset = seconds_value(start, "the start")
            last = None if end in ("-1", "-1.0") else seconds_value(end, "the end")
            channel = channel_of(fields[3], "the channel") if len(fields) == 4 and fields[3] != "-1" else None
            if last is not None and last <= offset:
                raise WrongValue(f"a cut from {start} to {end} s is impossible; start < end is needed")
        except WrongValue as error:
            lists.collection.refuse(where, f"{error}; the times are in seconds")
            continue
        found[name] = _Cut(recording, offset, None if last is None else last - offset, channel)
    return found
