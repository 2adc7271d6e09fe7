"""Remembers which versions of clip files prepared data were made from, and finds out whether they are still the same.

A file is compared by its size and modification time, as the code cache does it. Only if they differ is it read.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from boson_multimodal.audio_processing.clip_encoding import READ_THREADS
from boson_multimodal.audio_processing.code_cache import clip_key
from boson_multimodal.audio_processing.content_hashes import SETTLED_AFTER_SECONDS, ContentHashes
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.shard_files import Ragged, Shard, write_shard

MISSING, UNREADABLE, UNSETTLED = -1, -2, -3
"""In the place of the size: there is no such file, or it cannot be read, or it may still change and keep its time."""
UNKNOWN = bytes(32)
"""In the place of the SHA-256 of a file that could not be read."""
STAT_AT_ONCE = 4096
"""Files that a thread looks at before it hands over."""


@dataclass(frozen=True)
class ClipVersions:
    """The files of the clips of a ChatML file, and what they were when it was packed.

    Attributes:
        paths: absolute.
        facts: (files, 2) int64, size and modification time (ns) of each.
        contents: (files, 32) uint8, the SHA-256 of each; UNKNOWN for a file that could not be read.
        clips: (files,) int32, how many clips of valid samples lie in it.
        is_dropped: (files,) uint8, whether a sample that was left out uses it.
    """

    paths: list[str]
    facts: np.ndarray
    contents: np.ndarray
    clips: np.ndarray
    is_dropped: np.ndarray

    @classmethod
    def of(cls, dataset: ArabicVoiceCloningDataset, hashes: ContentHashes | None) -> "ClipVersions | None":
        """Return the versions that a dataset was read from; None if a file has changed since then.

        Without ``hashes`` no clip file counts, because the codes come from files of codes.
        """
        used: dict[str, dict[str, Clip]] = {}
        for record in dataset.records if hashes else ():
            for found in record.clips:
                if isinstance(found.clip.source, Path):
                    used.setdefault(_name(found.clip.source), {})[found.facts.key] = found.clip
        found = dataset.dropped_clips if hashes else ()
        dropped = {_name(clip.source) for clip in found if isinstance(clip.source, Path)}
        paths = [*used, *sorted(dropped - used.keys())]
        facts, contents = _facts(paths), [_content(path, hashes) for path in paths]  # in this order
        for path, content in zip(paths, contents, strict=True):
            if any(clip_key(clip, content.hex()) != key for key, clip in used.get(path, {}).items()):
                return None
        return cls(
            paths,
            facts,
            np.frombuffer(b"".join(contents), np.uint8).reshape(-1, len(UNKNOWN)),
            np.array([len(used.get(path, ())) for path in paths], np.int32),
            np.array([path in dropped for path in paths], np.uint8),
        )

    @classmethod
    def read(cls, path: Path) -> "ClipVersions":
        """Return the versions that a file holds.

        Raises:
            InputError: if the file is missing or damaged.
        """
        shard = Shard(path)
        facts, contents, clips, is_dropped = (shard.read(name, 0) for name in ("facts", "contents", "clips", "dropped"))
        paths = json.loads(shard.read_text("paths", 0))
        return cls(paths, facts.reshape(-1, 2), contents.reshape(-1, len(UNKNOWN)), clips, is_dropped)

    def write(self, path: Path) -> None:
        """Write a file that :meth:`read` reads."""
        arrays = {"facts": self.facts, "contents": self.contents, "clips": self.clips, "dropped": self.is_dropped}
        ragged = {name: Ragged.of([array], array.dtype) for name, array in arrays.items()}
        write_shard(path, {}, {**ragged, "paths": Ragged.of_texts([json.dumps(self.paths)])})

    def now(self, hashes: ContentHashes | None) -> "ClipVersions | None":
        """Return the same versions with the present sizes and times; None if a file has become another one.

        A file of valid samples may be missing, because its codes are there. A file of a sample that was left out must
        be as it was, because the sample may have become valid.
        """
        facts = _facts(self.paths)
        for index in np.flatnonzero((facts != self.facts).any(axis=1) | (facts[:, 0] == UNSETTLED)).tolist():
            is_missing, was_missing = facts[index, 0] == MISSING, self.facts[index, 0] == MISSING
            if self.is_dropped[index] and is_missing != was_missing:
                return None
            content = _content(self.paths[index], hashes)
            if content == UNKNOWN and is_missing:
                continue  # nobody has seen another version
            if content != self.contents[index].tobytes():
                return None
        return ClipVersions(self.paths, facts, self.contents, self.clips, self.is_dropped)

    @property
    def missing_clips(self) -> int:
        """The number of clips of valid samples whose files are missing."""
        return int(self.clips[self.facts[:, 0] == MISSING].sum())


def _name(source: Path) -> str:
    return str(source.absolute())


def _content(path: str, hashes: ContentHashes) -> bytes:
    """Return the SHA-256 of a file, or of its last version if it is missing; UNKNOWN if there is none."""
    try:
        return bytes.fromhex(hashes.of(Path(path))[0])
    except InputError:
        return UNKNOWN


def _facts(paths: Sequence[str]) -> np.ndarray:
    """Return (files, 2) the size and the modification time (ns) of each file. Threads wait for the disk together."""
    parts = [paths[start : start + STAT_AT_ONCE] for start in range(0, len(paths), STAT_AT_ONCE)]
    if len(parts) <= 1:
        found = map(_facts_of_some, parts)
        return np.array([facts for part in found for facts in part], np.int64).reshape(-1, 2)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return np.concatenate([np.array(part, np.int64) for part in pool.map(_facts_of_some, parts)])


def _facts_of_some(paths: Iterable[str]) -> list[tuple[int, int]]:
    newest = (time.time() - SETTLED_AFTER_SECONDS) * 1e9
    return [_facts_of(path, newest) for path in paths]


def _facts_of(path: str, newest: float) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return (UNREADABLE if os.path.lexists(path) else MISSING), 0
    return (found.st_size if found.st_mtime_ns <= newest else UNSETTLED), found.st_mtime_ns
