"""SHA-256 of audio files by path, size and time of change: a file is read once, not at every start."""

import hashlib
import os
import struct
import time
from pathlib import Path

from boson_multimodal.audio_processing.packed_store import PackedStore
from boson_multimodal.audio_processing.sound_files import content_hash

KNOWN = struct.Struct("<Qq32s")
"""A version of a file: its size, its st_mtime_ns, its SHA-256."""
SETTLED_AFTER_SECONDS = 2.0
"""A file that changed within this time may change again without a newer time: the coarsest clocks of file systems."""


class ContentHashes:
    """Versions of files in a :class:`PackedStore`, under hashes of their absolute path and the version's number.

    The last version is the file as it was when it was last looked at. Damaged entries cost a reading, no more; nor does
    a folder that cannot be written to, as that of a cache which is only read, or a full disk.
    """

    def __init__(self, folder: Path) -> None:
        self._is_writable = True
        self.store = PackedStore(folder, lambda payload: len(payload) == KNOWN.size)

    def of(self, source: Path | bytes) -> tuple[str, bool]:
        """SHA-256 of a file, or of the bytes of one; and whether it is there, or only known from earlier.

        Raises:
            InputError: if the file cannot be opened, or is missing and not known.
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
        except OSError:  # the file is read again at the next start; and no further log is begun, for each file one
            self._is_writable = False

    def _last_version(self, source: Path) -> tuple[int, tuple[int, int, bytes] | None]:
        """How many versions of a file are known, and the last one."""
        number, last = 0, None
        while (version := self.store.read(_key(source, number))) is not None:
            number, last = number + 1, KNOWN.unpack(version)
        return number, last


def _key(source: Path, number: int) -> bytes:
    return hashlib.sha256(f"{number}:{source.absolute()}".encode("utf-8", "surrogatepass")).digest()


def _facts(source: Path) -> tuple[int, int] | None:
    """A file's size and time of change; None if it is not to be had."""
    try:
        found = source.stat()
    except (OSError, ValueError):  # ValueError: a null byte; whoever opens the file says so
        return None
    return found.st_size, found.st_mtime_ns
