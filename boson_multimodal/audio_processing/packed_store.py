"""A key-value store in few files that several processes may use at once, and that survives killed processes.

It maps 32-byte keys to short byte strings. Every process appends to its own log. A log that is full or closed becomes a
pack, which has a sorted index at its end. :meth:`PackedStore.compact` joins small packs into large ones. No file is
changed in place and no lock is used, so the folder may be on a network share. All numbers are little-endian, all
checksums are zlib's CRC-32.

    log or pack = entry*                   pack also has: record* footer
    entry   48 bytes + payload:  magic b"HAe1" | key 32 | payload length u32 | CRC of payload u32 | CRC of these 44 u32
    record  44 bytes:            key 32 | offset of its entry u64 | payload length u32; sorted by key, no key twice
    footer  28 bytes:            magic b"HAindex1" | offset of the first record u64 | records u64 | CRC of these 24 u32

File names are random hex digits with a suffix: ``.log`` while a process may append to the file, ``.pack`` after that,
``.tmp`` while :meth:`PackedStore.compact` writes it. A kill can only leave an incomplete entry at the end of a log, and
readers ignore it. The log of a killed process stays readable; it is joined into a pack after a day. A pack with a
damaged footer is read like a log. A damaged entry or record counts as a missing entry, and the entries after it are
found. Files are not mapped into memory: another machine may remove or cut a file, which would end this process.
``docs/codes.md`` says why the form is our own.
"""

import errno
import os
import struct
import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from boson_multimodal.whole_files import append_whole as _write_whole
from boson_multimodal.whole_files import sync

KEY_BYTES = 32
ENTRY = struct.Struct("<4s32sIII")
RECORD = struct.Struct("<32sQI")
FOOTER = struct.Struct("<8sQQI")
ENTRY_MAGIC, FOOTER_MAGIC = b"HAe1", b"HAindex1"
LOG_BYTES = 64 << 20
"""A log of this size becomes a pack, because a reader must scan the whole log to find its entries."""
LARGE_PACK_BYTES = 256 << 20
"""Packs of this size are not joined with others, so that a few new entries do not cause a copy of everything."""
IDLE_SECONDS = 3600
"""If the last write to a log is older than this, the next write begins a new log. Other processes may take an old log
for abandoned (ABANDONED_AFTER_SECONDS)."""
ABANDONED_AFTER_SECONDS = 24 * 3600
"""A log or temporary file of this age is taken for one of a killed process."""
REFRESH_SECONDS = 1.0
"""A reader that misses a key looks for new files at most this often."""
SEARCHED_AT_ONCE = 1 << 20
"""Bytes that are read at a time to find the entry after a damaged one."""
REMOVED = (errno.ENOENT, errno.ESTALE)
"""Another process has joined the file with others and removed it; ESTALE: one on another machine, while it was open."""

Place = tuple[int, int]
"""The offset of an entry and the length of its payload."""


class Segment:
    """An open log or pack. Threads may share it, because reads are positional. It closes with its last reference.

    The index of a pack is kept in memory (44 bytes an entry, 32 MB for 1,000 h in clips of 5 s), so that an entry costs
    one read. A search on disk would take about twenty, each a round trip on a network share.

    Raises:
        OSError: with a number in REMOVED if another process has joined the file with others and removed it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_gone = False
        self._file = path.open("rb", buffering=0)
        self.places: dict[bytes, Place] | None = None
        self._index, self._entries_end = self._read_index()
        if not self._index:
            self.places, self._scanned = {}, 0
            self.scan()

    def __len__(self) -> int:
        return len(self._index) // RECORD.size if self.places is None else len(self.places)

    def read(self, key: bytes) -> bytes | None:
        """Return the payload of a key with one read; None if the entry is missing or damaged."""
        place = self._find(key)
        if place is None:
            return None
        entry = self._pread(ENTRY.size + place[1], place[0])
        payload = entry[ENTRY.size :]
        return payload if len(payload) == place[1] and _payload_crc(entry, key) == crc32(payload) else None

    def keys(self) -> Iterator[bytes]:
        """Yield every key, in the order of the index."""
        yield from list(self.places) if self.places is not None else map(self._key, range(len(self)))

    def is_joinable(self) -> bool:
        """Return whether this is a small pack or an abandoned log."""
        is_pack = self.path.suffix == ".pack"
        return _size(self.path) < LARGE_PACK_BYTES if is_pack else _is_abandoned(self.path)

    def scan(self) -> None:
        """Find the entries that were appended to a log since the last call, and skip damaged ones.

        The next call begins where this one met an incomplete or damaged entry. On a network share, the end of a log
        that another machine writes may first look like zeros.
        """
        if self.places is None:
            return
        size, place, met = os.fstat(self._file.fileno()).st_size, self._scanned, []
        while place is not None and place + ENTRY.size <= size:
            header = self._pread(ENTRY.size, place)
            if _payload_crc(header) is None:
                met.append(place)
                place = self._next_header(place + 1)
                continue
            _, key, length, _, _ = ENTRY.unpack(header)
            if place + ENTRY.size + length > size:
                break
            self.places[key] = (place, length)
            place += ENTRY.size + length
        self._scanned = met[0] if met else place

    def _next_header(self, start: int) -> int | None:
        """Return the offset of the next intact header, or None."""
        while len(window := self._pread(SEARCHED_AT_ONCE, start)) >= ENTRY.size:
            found = window.find(ENTRY_MAGIC)
            if found < 0:
                start += len(window) - len(ENTRY_MAGIC) + 1
            elif _payload_crc(self._pread(ENTRY.size, start + found)) is None:
                start += found + 1
            else:
                return start + found
        return None

    def _find(self, key: bytes) -> Place | None:
        if self.places is not None:
            return self.places.get(key)
        number = bisect_left(range(len(self)), key, key=self._key)
        record = self._index[number * RECORD.size : (number + 1) * RECORD.size]
        if record[:KEY_BYTES] != key:
            return None
        _, offset, length = RECORD.unpack(record)
        return (offset, length) if offset + ENTRY.size + length <= self._entries_end else None  # damaged

    def _key(self, number: int) -> bytes:
        """Return the ``number``-th key of a pack."""
        return self._index[number * RECORD.size : number * RECORD.size + KEY_BYTES]

    def _read_index(self) -> tuple[bytes, int]:
        """Return the records of a pack and the offset where its entries end; (b"", 0) without a valid footer."""
        size = os.fstat(self._file.fileno()).st_size
        footer = self._pread(FOOTER.size, max(0, size - FOOTER.size))
        if len(footer) < FOOTER.size:
            return b"", 0
        magic, start, count, crc = FOOTER.unpack(footer)
        is_whole = magic == FOOTER_MAGIC and crc == crc32(footer[:-4])
        if not is_whole or start + count * RECORD.size + FOOTER.size != size:
            return b"", 0
        return self._pread(count * RECORD.size, start), start

    def _pread(self, length: int, offset: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)


class PackedStore:
    """The store that the module's docstring describes. Threads may share an object; each process opens its own.

    Args:
        folder: the folder of the files. It is created if it does not exist.
        is_valid: returns whether a payload is valid. An entry with an invalid payload counts as missing.
    """

    def __init__(self, folder: Path, is_valid: Callable[[bytes], bool]) -> None:
        self.folder = folder
        self.is_valid = is_valid
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._segments: tuple[Segment, ...] = ()
        self._log: BinaryIO | None = None
        self._log_segment: Segment | None = None
        self._last_write = 0.0
        self.refresh()

    def read(self, key: bytes) -> bytes | None:
        """Return the payload of a key, or None if no file has a valid entry for it."""
        payload = self._look_up(key)
        if payload is None and time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self.refresh()
            payload = self._look_up(key)
        return payload

    def write(self, key: bytes, payload: bytes) -> None:
        """Append an entry. From now on this process can read it, and other processes after a refresh.

        Raises:
            OSError: if the entry cannot be written completely. The store is then unchanged.
        """
        with self._lock:
            if self._log is not None and time.time() - self._last_write > IDLE_SECONDS:
                self.seal()
            if self._log is None:
                self._begin_log()
            log, self._log = self._log, None  # If the write fails, this log is not used again.
            _write_whole(log, _entry(key, payload))
            self._log, self._last_write = log, time.time()
            self._log_segment.scan()
            if log.tell() > LOG_BYTES:
                self.seal()

    def refresh(self) -> None:
        """Find the files that other processes wrote, joined or removed."""
        with self._lock:
            known = {segment.path.name: segment for segment in self._segments if not segment.is_gone}
            self._segments = tuple(self._open(known))
            self._refreshed = time.monotonic()

    def seal(self) -> None:
        """Turn this process's log into a pack. Call it after the last write of a series."""
        with self._lock:
            if self._log is None:
                return
            log, self._log = self._log, None
            path, places = self._log_segment.path, self._log_segment.places
            with log:
                _write_index(log, sorted(RECORD.pack(key, *place) for key, place in places.items()))
            # After a day without a write, another process may have taken the log for abandoned and joined it with
            # others. The rename then fails, but the entries are in the joined pack.
            with suppress(FileNotFoundError):
                path.rename(path.with_suffix(".pack"))
            self.refresh()

    def compact(self) -> None:
        """Join all small packs and the logs of killed processes into one pack, then remove the joined files.

        Every entry is verified while it is copied. A file is removed only after a newer file has its entries. If two
        processes compact at the same time, entries may be stored twice, but none is lost.

        Raises:
            OSError: if the disk is full. No file has been removed then.
        """
        self.seal()
        for path in self.folder.glob("*.tmp"):
            if _is_abandoned(path):
                path.unlink(missing_ok=True)
        self.refresh()
        sources = [segment for segment in self._segments if segment.is_joinable()]
        if not sources or (len(sources) == 1 and sources[0].path.suffix == ".pack"):
            return
        temporary = self.folder / f"{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("xb") as file:
                joined, records = self._copy_entries(sources, file)
                _write_index(file, records)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(temporary.with_suffix(".pack"))
        finally:
            temporary.unlink(missing_ok=True)
        sync(self.folder)
        for source in joined:
            source.path.unlink(missing_ok=True)
        self.refresh()

    def sizes(self) -> tuple[int, int, int]:
        """Return the number of files, of entries (an entry in two files counts twice), and of bytes."""
        return len(self._segments), sum(map(len, self._segments)), sum(_size(s.path) for s in self._segments)

    def _look_up(self, key: bytes) -> bytes | None:
        for segment in self._segments:
            try:
                payload = segment.read(key)
            except OSError as error:
                if error.errno not in REMOVED:
                    raise
                segment.is_gone, self._refreshed = True, float("-inf")
                continue
            if payload is not None and self.is_valid(payload):
                return payload
        return None

    def _copy_entries(self, sources: list[Segment], file: BinaryIO) -> tuple[list[Segment], list[bytes]]:
        """Append every valid entry to ``file``, each key once.

        Returns:
            The sources that still existed, and the sorted records of the appended entries.
        """
        joined, records = [], {}
        for source in sources:
            try:
                for key in source.keys():
                    payload = None if key in records else source.read(key)
                    if payload is not None and self.is_valid(payload):
                        records[key] = RECORD.pack(key, file.tell(), len(payload))
                        file.write(_entry(key, payload))
            except OSError as error:
                if error.errno not in REMOVED:
                    raise
            else:
                joined.append(source)
        return joined, sorted(records.values())

    def _open(self, known: dict[str, Segment]) -> list[Segment]:
        """Return a segment for each file, with the newest entries of the logs."""
        while True:
            names = self._names()
            try:
                found = [known[name] if name in known else Segment(self.folder / name) for name in names]
                for segment in found:
                    segment.scan()
            except OSError as error:
                if error.errno not in REMOVED:
                    raise
                known = {}  # A file was removed after the listing. It may be a known one.
            else:
                return found

    def _names(self) -> list[str]:
        """Return the names of logs and packs. List the folder until two lists agree.

        A single list may miss both a new pack and the files that were joined into it.
        """
        before, names = None, []
        while names != before:
            before = names
            names = sorted(e.name for e in os.scandir(self.folder) if e.name.endswith((".log", ".pack")))
        return names

    def _begin_log(self) -> None:
        path = self.folder / f"{uuid.uuid4().hex}.log"
        self._log = path.open("xb", buffering=0)
        self._log_segment = Segment(path)
        self._segments = (*self._segments, self._log_segment)


def _payload_crc(header: bytes, key: bytes | None = None) -> int | None:
    """Return the payload's checksum from an entry's header; None if the header is damaged or has another key."""
    if len(header) < ENTRY.size:
        return None
    magic, found, _, payload_crc, crc = ENTRY.unpack(header[: ENTRY.size])
    is_whole = magic == ENTRY_MAGIC and crc == crc32(header[: ENTRY.size - 4])
    return payload_crc if is_whole and key in (None, found) else None


def _entry(key: bytes, payload: bytes) -> bytes:
    head = ENTRY.pack(ENTRY_MAGIC, key, len(payload), crc32(payload), 0)[:-4]
    return head + crc32(head).to_bytes(4, "little") + payload


def _write_index(file: BinaryIO, records: list[bytes]) -> None:
    footer = FOOTER.pack(FOOTER_MAGIC, file.tell(), len(records), 0)[:-4]
    _write_whole(file, b"".join(records) + footer + crc32(footer).to_bytes(4, "little"))


def _size(path: Path) -> int:
    """Return the size of a file in bytes; 0 if another process has renamed or removed it."""
    try:
        return path.stat().st_size
    except OSError as error:
        if error.errno not in REMOVED:
            raise
        return 0


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_AFTER_SECONDS
    except OSError as error:
        if error.errno not in REMOVED:  # another process renamed or removed it
            raise
        return False
