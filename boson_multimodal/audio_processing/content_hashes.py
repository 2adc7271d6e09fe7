"""Store the SHA-256 of audio files by path, size and modification time, so that a start need not read them again."""

import hashlib
import os
import struct
import time
from pathlib import Path

from boson_multimodal.audio_processing.packed_store import PackedStore
from boson_multimodal.audio_processing.sound_files import content_hash

KNOWN = struct.Struct("<Qq32s")
"""A version of a file: its size, its st_mtime_ns and its SHA-256."""
SETTLED_AFTER_SECONDS = 2.0
"""The coarsest resolution of modification times. A file that is younger may change again and keep the same time, so its
hash is not stored."""


class ContentHashes:
    """Versions of files in a :class:`PackedStore`. The key is a hash of the absolute path and the version's number.

    The last version describes the file at its last check. If an entry is damaged, the folder is not writable (a
    read-only cache) or the disk is full, the file is read again; nothing else is lost.
    """

    def __init__(self, folder: Path) -> None:
        self._is_writable = True
        self.store = PackedStore(folder, lambda payload: len(payload) == KNOWN.size)

    def of(self, source: Path | bytes) -> tuple[str, bool]:
        """Return the SHA-256 of a file or of bytes, and whether the file exists. If not, return the last stored hash.

        Raises:
            InputError: if the file cannot be opened, or if it does not exist and has no stored hash.
        """
        if isinstance(source, bytes):
            return content_hash(source), True
        number, known = self._last_version(source)
        facts = _facts(source)
        is_missing = facts is None and not os.path.lexists(source)
        if known is not None and (is_missing or facts == known[:2]):
            return known[2].hex(), not is_missing
        content = content_hash(source)
        if facts is not None and facts == _facts(source) and time.time() - facts[1] / 1e9 > SETTLED_AFTER_SECONDS:
            self._remember(_key(source, number), KNOWN.pack(*facts, bytes.fromhex(content)))
        return content, True

    def _remember(self, key: bytes, version: bytes) -> None:
        if not self._is_writable:
            return
        try:
            self.store.write(key, version)
        except OSError:  # The next start reads the file again. No further write is tried: each would create a log.
            self._is_writable = False

    def _last_version(self, source: Path) -> tuple[int, tuple[int, int, bytes] | None]:
        """Return the number of stored versions of a file, and the last one."""
        number, last = 0, None
        while (version := self.store.read(_key(source, number))) is not None:
            number, last = number + 1, KNOWN.unpack(version)
        return number, last


def _key(source: Path, number: int) -> bytes:
    return hashlib.sha256(f"{number}:{source.absolute()}".encode("utf-8", "surrogatepass")).digest()


def _facts(source: Path) -> tuple[int, int] | None:
    """Return a file's size and modification time (ns), or None if they cannot be read."""
    try:
        found = source.stat()
    except (OSError, ValueError):  # ValueError: a null byte in the path. Opening the file reports it.
        return None
    return found.st_size, found.st_mtime_ns
