"""Reads WebDataset shards: tar archives in which the files of a sample share a name, its key.

The key of ``folder/a1.clean.wav`` is ``folder/a1``: it ends at the first dot of the file's name, as in the library
``webdataset``. In a shard with names such as ``take_0.5.wav`` and ``take_0.5.txt`` it ends at the last dot. A sample
has one audio file, and its text in ``KEY.txt`` or in ``KEY.json``, which may hold the speaker and more. An archive is
read from its start to its end; nothing in it is written under a name of its own.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from boson_multimodal.errors import InputError, raise_if_any, result_or_message
from boson_multimodal.progress import progress
from boson_multimodal.strict_json import parse_json
from voice_cloning.corpora.arrow import LFS_POINTER
from voice_cloning.corpora.attributes import ATTRIBUTE_COLUMNS, attributes_in
from voice_cloning.corpora.cell_values import WrongValue
from voice_cloning.corpora.columns import TEXT_COLUMNS, Columns, Roles, cut_in, roles_of_header, speaker_in, text_in
from voice_cloning.corpora.countries import country_attributes
from voice_cloning.corpora.held_audio import HeldCounts, cut_of, measured
from voice_cloning.corpora.source_files import (
    AUDIO_SUFFIXES,
    OTHER_AUDIO_SUFFIXES,
    control_problem,
    each_once,
    facts_of_files,
    is_no_data,
    list_files,
    normal,
)
from voice_cloning.corpora.speaker_sources import SPEAKER_COLUMNS, NotOneVoice
from voice_cloning.corpora.tables import clip_file_name
from voice_cloning.corpora.utterances import Collection, Member, Utterance

SHARD_SUFFIX = ".tar"
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
COMPRESSED_BYTES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
TEXT_FILES = ("txt", "lab", "trn")
"""Files of a sample that hold its text."""
FEWEST_WHOLE, MOST_WHOLE = 0.5, 0.9
"""Shares of keys with audio and text that tell at which dot keys end: fewer at the first dot, and more at the last."""
AUDIO = "the audio file of the key"
"""Stands for the column of the audio among those that a sample names."""
_NAMED = {*SPEAKER_COLUMNS, *TEXT_COLUMNS, *(name for names in ATTRIBUTE_COLUMNS.values() for name in names)}
"""Files such as ``KEY.speaker`` hold the value of this column."""


@dataclass
class _Sample:
    """The files of one key.

    Attributes:
        row: column -> value, of its JSON and small text files.
        audio: (name in the archive, place in bytes, size) of each audio file.
        kinds: the files that were noted, such as ``txt``.
        problems: what is wrong with its files.
    """

    row: dict[str, Any] = field(default_factory=dict)
    audio: list[tuple[str, int, int]] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass
class _Shard:
    """The samples of an archive by key, and the kinds of files in it that are not used."""

    by_last_dot: bool = False
    samples: dict[str, _Sample] = field(default_factory=dict)
    has_texts: bool = False
    unused: set[str] = field(default_factory=set)

    @property
    def has_rows(self) -> bool:
        """Whether any sample has a text file or JSON."""
        return any(sample.row for sample in self.samples.values())

    @property
    def whole_share(self) -> float:
        """The share of samples with one audio file and a text file or JSON."""
        whole = sum(len(sample.audio) == 1 and bool(sample.row) for sample in self.samples.values())
        return whole / max(1, len(self.samples))


def is_shard(path: Path) -> bool:
    """Return whether a file's name is that of a shard, compressed ones too."""
    return path.name.casefold().endswith((SHARD_SUFFIX, *COMPRESSED_SUFFIXES))


def read_shards(source: Path, columns: Columns, encoding: str | None = None) -> Collection:
    """Read a shard, or all shards in a folder.

    Raises:
        InputError: if the samples name no text or no speaker; what is wrong with an archive becomes a fault.
    """
    collection = Collection("webdataset")
    listing = list_files(source)
    collection.faults += listing.faults
    collection.aside += listing.aside
    root = source.parent if source.is_file() else source
    counts, problems = HeldCounts(), []
    read: list[tuple[str, list[str]]] = []
    with progress(title=f"reading {source.name}", unit="sample") as bar:
        for path in [path for path in listing.files if is_shard(path)]:
            shard, fault = _read_shard(path, columns)
            collection.faults += [fault] if fault else []
            try:
                facts = _add_samples(collection, root, path, shard, columns, counts, bar)
            except InputError as error:
                if shard.has_rows or not fault:  # of a damaged shard, the end may be missing that names the texts
                    problems.append((path, str(error)))
                continue
            read.append((path.relative_to(root).as_posix(), facts))
    if problems:
        raise_if_any(f"{source}: problems in these shards", collection.faults + each_once(problems))
    collection.facts += facts_of_files("shards", read) + counts.facts()
    _refuse_copies(collection)
    return collection


def read_members(members: Sequence[Member]) -> Iterator[tuple[Member, bytes]]:
    """Yield each member with the bytes of its audio file, in the order of their places."""
    for member in sorted(members, key=lambda member: (member.path, member.offset)):
        content = _content(member.path, member.offset, member.size)
        yield member, content if member.cut is None else cut_of(content, *member.cut)


def _content(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _read_shard(path: Path, columns: Columns) -> tuple[_Shard, str | None]:
    """Return the samples of a shard and its fault. Keys end at the last dot if hardly any is whole otherwise."""
    shard = _Shard()
    _, fault = result_or_message(lambda: _list_members(path, shard, columns))
    if fault or shard.whole_share >= FEWEST_WHOLE:
        return shard, fault
    other = _Shard(by_last_dot=True)
    _list_members(path, other, columns)
    return (other, None) if other.whole_share >= MOST_WHOLE else (shard, None)


def _list_members(path: Path, shard: _Shard, columns: Columns) -> None:
    """Note the files of an archive: small ones with their content, audio with its place.

    Raises:
        InputError: if the archive is damaged; what was read before stays noted.
    """
    try:
        with path.open("rb") as file:
            start = file.read(max(map(len, (LFS_POINTER, *COMPRESSED_BYTES))))
            if start == LFS_POINTER:
                raise InputError(f"{path}: is a pointer of Git LFS, not the file; get the file with: git lfs pull")
            if start.startswith(COMPRESSED_BYTES):
                raise InputError(f"{path}: is compressed; extract it, or unpack it to a .tar if it is a shard")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    _note(archive, member, shard, columns)
                end = archive.offset
            file.seek(end)
            if not (rest := file.read(tarfile.BLOCKSIZE)) or rest.strip(b"\0") or _has_more(file):
                raise InputError(f"{path}: is damaged, cut off, or joined of several archives at byte {end}")
    except (tarfile.TarError, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as a tar archive to its end ({error})") from error


def _has_more(file: Any) -> bool:
    """Return whether anything but zeros follows."""
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return True
    return False


def _note(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: _Shard, columns: Columns) -> None:
    """Note one file of an archive for its sample."""
    place = PurePosixPath(normal(member.name))
    if member.isdir() or any(is_no_data(part) for part in place.parts if part not in (".", "..")):
        return
    stem, _, kind = place.name.rpartition(".") if shard.by_last_dot else place.name.partition(".")
    kind = kind.casefold()
    suffix = PurePosixPath(f"x.{kind}").suffix
    key, is_text = (place.parent / stem).as_posix(), kind == "json" or kind in TEXT_FILES or kind in _NAMED
    is_audio = suffix in AUDIO_SUFFIXES and columns.audio in (None, kind, f".{kind}")
    if not (is_text or is_audio or suffix in OTHER_AUDIO_SUFFIXES):
        shard.unused.add(kind)
        return
    sample = shard.samples.setdefault(key, _Sample())
    if not member.isreg() or member.issparse():
        sample.problems.append(f"{member.name} is a link or no whole file; only whole files are read")
    elif kind in sample.kinds:
        sample.problems.append(f"{member.name} is there twice; keep one")
    elif is_audio:
        sample.audio.append((member.name, member.offset_data, member.size))
    elif is_text:
        _note_values(sample, kind, member.name, archive.extractfile(member).read())
        shard.has_texts |= kind in TEXT_FILES
    else:
        sample.problems.append(f"{member.name}: this format cannot be read; convert it to FLAC or WAV")
    sample.kinds.add(kind)


def _note_values(sample: _Sample, kind: str, name: str, content: bytes) -> None:
    """Note what a JSON file or a small text file of a sample says. Its text file comes before a text in its JSON."""
    try:
        text = content.decode("utf-8-sig")
        values = parse_json(text) if kind == "json" else {"text" if kind in TEXT_FILES else kind: text}
    except ValueError as error:
        sample.problems.append(f"{name}: not readable as UTF-8 {'JSON' if kind == 'json' else 'text'} ({error})")
        return
    if not isinstance(values, dict):
        sample.problems.append(f"{name}: must be a JSON object of name: value")
    elif kind == "json":
        sample.row = {**values, **sample.row}
    else:
        sample.row.update(values)


def _roles(path: Path, shard: _Shard, columns: Columns) -> tuple[Roles, list[str]]:
    """Return the roles of what the samples of a shard name, and its names."""
    header = list(dict.fromkeys(name for sample in shard.samples.values() for name in sample.row if name != AUDIO))
    if not header:
        raise InputError(
            f"{path}: no key has a .txt or .json file with its text; if this archive is no WebDataset shard, extract "
            "it and give its folder"
        )
    text = columns.text or ("text" if shard.has_texts else None)
    return roles_of_header([AUDIO, *header], replace(columns, audio=AUDIO, text=text), str(path)), header


def _add_samples(
    collection: Collection, root: Path, path: Path, shard: _Shard, columns: Columns, counts: HeldCounts, bar: Any
) -> list[str]:
    """Add the samples of a shard as utterances, and return what was taken for what."""
    _check_kind(path, shard, columns.audio)
    for key, sample in shard.samples.items():
        sample.problems += [reason for reason in (control_problem(key), _audio_problem(sample)) if reason]
        for problem in sample.problems:
            collection.refuse(f"{path}, key {key}", problem)
    whole = {key: sample for key, sample in shard.samples.items() if not sample.problems}
    if not whole:
        return ["no sample"]
    roles, header = _roles(path, shard, columns)
    name = path.relative_to(root)
    given = country_attributes((root.resolve().name, *name.parts), roles.attributes)
    for key, sample in whole.items():
        bar.update()
        where = f"{path}, key {key}"
        (member, place, size), values = sample.audio[0], sample.row
        try:
            text, speaker = text_in(values, roles), speaker_in(values, roles, member)
            offset, duration, _ = cut_in(values, roles)
            length = measured(_content(path, place, size), member, offset, duration)
        except NotOneVoice as error:
            collection.leave_aside(error.reason, where)
            continue
        except (WrongValue, InputError) as error:
            collection.refuse(where, str(error))
            continue
        counts.add(length, is_named=offset is not None)
        utterance_id = f"{name.with_suffix('').as_posix()}-{key}"
        suffix = PurePosixPath(member).suffix.lower() if length.offset is None else ".wav"
        clip = Path(clip_file_name(len(collection.utterances), utterance_id)).with_suffix(suffix).name
        cut = None if length.offset is None else (length.offset, length.duration)
        audio, misc = Member(path, place, size, clip, cut), {**given, **attributes_in(values, roles.attributes)}
        collection.add(Utterance(utterance_id, audio, text, speaker, where, seconds=length.seconds, misc=misc))
    return _facts(shard, roles, header, given)


def _check_kind(path: Path, shard: _Shard, kind: str | None) -> None:
    """Check that the kind of audio that the user names is in a shard.

    Raises:
        InputError: naming the kinds that are there.
    """
    others = sorted(other for other in shard.unused if PurePosixPath(f"x.{other}").suffix in AUDIO_SUFFIXES)
    if kind is not None and others and not any(sample.audio for sample in shard.samples.values()):
        raise InputError(f"--audio_column {kind}: no audio of this kind; {path} has {', '.join(others)}")


def _audio_problem(sample: _Sample) -> str | None:
    if len(sample.audio) == 1 or (sample.problems and not sample.audio):
        return None
    if not sample.audio:
        return "no audio file has this key"
    shown = " and ".join(name for name, _, _ in sample.audio[:3])
    return f"several audio files have this key ({shown}); a key ends at a dot; name one kind with --audio_column"


def _facts(shard: _Shard, roles: Roles, header: list[str], given: dict[str, str]) -> list[str]:
    facts = [fact.replace(f"column {AUDIO}", AUDIO) for fact in roles.facts(header)]
    facts = [fact.replace("column text", ".txt files") for fact in facts] if shard.has_texts else facts
    facts += [f"{key}: {value}, as a folder or file is called" for key, value in given.items()]
    facts += ["keys: names up to their last dot"] if shard.by_last_dot else []
    return facts + ([f"files that are not used: {', '.join(sorted(shard.unused))}"] if shard.unused else [])


def _refuse_copies(collection: Collection) -> None:
    """Refuse samples that have key, text and size of audio with another one: one shard was copied into another."""
    found: dict[tuple[str, str, int], list[str]] = {}
    for utterance in collection.utterances:
        key = utterance.where.rpartition(", key ")[2]
        found.setdefault((key, utterance.text, utterance.audio.size), []).append(utterance.where)
    for (key, _, _), places in found.items():
        for place in places if len(places) > 1 else []:
            collection.refuse(place, f"key {key} has the same text and audio in {len(places)} shards; keep one")
