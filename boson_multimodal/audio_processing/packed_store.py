"""A folder of few files that maps 32-byte keys to short byte strings, for processes that are killed and share it.

Every process appends to a log of its own; a log that is full or done with becomes a pack, which has a sorted index at
its end; :meth:`PackedStore.compact` joins small packs into large ones. Nothing is ever changed in place, and no lock
is taken: the folder may lie on a share. All numbers are little-endian, all checksums zlib's CRC-32.

    log or pack = entry*                   pack also has: record* footer
    entry   48 bytes + payload:  magic b"HAe1" | key 32 | payload length u32 | CRC of payload u32 | CRC of these 44 u32
    record  44 bytes:            key 32 | offset of its entry u64 | payload length u32; sorted by key, no key twice
    footer  28 bytes:            magic b"HAindex1" | offset of the first record u64 | records u64 | CRC of these 24 u32

Files are named by random hex digits: ``.log`` while a process may append to it, ``.pack`` once none does, ``.tmp``
while :meth:`PackedStore.compact` writes one. What a kill tears is the tail of a log, which no reader takes for an
entry; a log of a killed process is read as it is, and joins a pack after a day. A pack whose footer is damaged is read
as a log; a damaged entry or record is an entry that is not there.
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

KEY_BYTES = 32
ENTRY = struct.Struct("<4s32sIII")
RECORD = struct.Struct("<32sQI")
FOOTER = struct.Struct("<8sQQI")
ENTRY_MAGIC, FOOTER_MAGIC = b"HAe1", b"HAindex1"
LOG_BYTES = 64 << 20
"""Size at which a log becomes a pack: readers of a log go through all of it, to find its entries."""
LARGE_PACK_BYTES = 256 << 20
"""Packs of this size are no longer joined with others: to add a few entries does not copy everything."""
IDLE_SECONDS = 3600
"""A log that its process left alone for so long is closed before the next write: see ABANDONED_AFTER_SECONDS."""
ABANDONED_AFTER_SECONDS = 24 * 3600
"""Age at which a log or a temporary file is that of a process which was killed."""
REFRESH_SECONDS = 1.0
"""How often a key that is not there makes a reader look for new files."""

Place = tuple[int, int]
"""Offset of an entry and length of its payload."""


class Segment:
    """An open log or pack. Reads are positional: threads share it. It closes when nobody refers to it any more.

    The index of a pack is kept in memory (44 bytes an entry, 32 MB for 1,000 h in clips of 5 s), so that an entry is
    one read: a search on disk takes some twenty, each of them a round trip on a share.

    Raises:
        FileNotFoundError: if another process joined it with others meanwhile.
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

    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file.fileno()).st_size

    def read(self, key: bytes) -> bytes | None:
        """The payload, in one read; None if it is not there or not whole."""
        place = self._find(key)
        entry = b"" if place is None else self._pread(ENTRY.size + place[1], place[0])
        if len(entry) < ENTRY.size or _payload_crc(entry, key) != crc32(entry[ENTRY.size :]):
            return None
        return entry[ENTRY.size :] if len(entry) == ENTRY.size + place[1] else None

    def keys(self) -> Iterator[bytes]:
        """Each key, as the index has it."""
        yield from list(self.places) if self.places is not None else map(self._key, range(len(self)))

    def is_joinable(self) -> bool:
        """Whether it is a small pack, or a log that nobody will append to."""
        is_pack = self.path.suffix == ".pack"
        return self.size() < LARGE_PACK_BYTES if is_pack else _is_abandoned(self.path)

    def add(self, key: bytes, place: Place) -> None:
        """Know an entry of a log that this process wrote."""
        self.places[key] = place
        self._scanned = place[0] + ENTRY.size + place[1]

    def scan(self) -> None:
        """Find the entries that were appended to a log since the last call; a torn or damaged one ends it."""
        size = self.size()
        while self.places is not None and self._scanned + ENTRY.size <= size:
            header = self._pread(ENTRY.size, self._scanned)
            if _payload_crc(header) is None:
                return
            _, key, length, _, _ = ENTRY.unpack(header)
            if self._scanned + ENTRY.size + length > size:
                return
            self.add(key, (self._scanned, length))

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
        """The ``number``-th key of a pack."""
        return self._index[number * RECORD.size : number * RECORD.size + KEY_BYTES]

    def _read_index(self) -> tuple[bytes, int]:
        """The records of a pack and where its entries end; no records without a whole footer."""
        size = self.size()
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
    """See above. Threads may share one; each process opens its own.

    Args:
        folder: where the files lie; made if absent.
        is_sound: whether a payload is of the form that its readers take; one that is not is an entry that is not there.
    """

    def __init__(self, folder: Path, is_sound: Callable[[bytes], bool]) -> None:
        self.folder = folder
        self.is_sound = is_sound
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._segments: tuple[Segment, ...] = ()
        self._log: BinaryIO | None = None
        self._log_segment: Segment | None = None
        self._last_write = 0.0
        self.refresh()

    def read(self, key: bytes) -> bytes | None:
        """The payload of a key, or None if no file has it whole."""
        payload = self._look_up(key)
        if payload is None and time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self.refresh()
            payload = self._look_up(key)
        return payload

    def write(self, key: bytes, payload: bytes) -> None:
        """Append an entry. What is written is read from now on, by this process and by others that refresh.

        Raises:
            OSError: if it cannot be written whole; the store is as it was before.
        """
        with self._lock:
            if self._log is not None and time.time() - self._last_write > IDLE_SECONDS:
                self.seal()
            if self._log is None:
                self._begin_log()
            offset = self._log.tell()
            log, self._log = self._log, None  # given up, unless the entry gets there whole
            _write_whole(log, _entry(key, payload))
            self._log, self._last_write = log, time.time()
            self._log_segment.add(key, (offset, len(payload)))
            if log.tell() > LOG_BYTES:
                self.seal()

    def refresh(self) -> None:
        """Find what other processes wrote, joined and removed."""
        with self._lock:
            known = {segment.path.name: segment for segment in self._segments if not segment.is_gone}
            self._segments = tuple(self._open(known))
            self._refreshed = time.monotonic()

    def seal(self) -> None:
        """Make this process's log a pack: it will write no more for now."""
        with self._lock:
            if self._log is None:
                return
            log, self._log = self._log, None
            path, places = self._log_segment.path, self._log_segment.places
            with log:
                _write_index(log, sorted(RECORD.pack(key, *place) for key, place in places.items()))
            # Who left its log alone for a day and closes it now may find that it was taken for a dead process's, and
            # joined with others: its entries are there.
            with suppress(FileNotFoundError):
                path.rename(path.with_suffix(".pack"))
            self.refresh()

    def compact(self) -> None:
        """Join all packs that are not large, and the logs of killed processes, into one pack; then remove these.

        Every entry is verified on its way. A file goes only when another one, which is younger, has its entries: so
        two processes that do this at once may leave entries twice, and lose none.

        Raises:
            OSError: if the disk is full; nothing was removed.
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
        _sync_folder(self.folder)
        for source in joined:
            source.path.unlink(missing_ok=True)
        self.refresh()

    def sizes(self) -> tuple[int, int, int]:
        """Files, entries (of two files that hold the same one, two) and bytes."""
        return len(self._segments), sum(map(len, self._segments)), sum(s.size() for s in self._segments)

    def _look_up(self, key: bytes) -> bytes | None:
        for segment in self._segments:
            try:
                payload = segment.read(key)
            except OSError as error:
                if error.errno != errno.ESTALE:  # another machine removed the file; others have its entries by now
                    raise
                segment.is_gone, self._refreshed = True, float("-inf")
                continue
            if payload is not None and self.is_sound(payload):
                return payload
        return None

    def _copy_entries(self, sources: list[Segment], file: BinaryIO) -> tuple[list[Segment], list[bytes]]:
        """Append each entry that is whole and sound to ``file``, each key once.

        Returns:
            The sources that were still there, and the sorted records of what was appended.
        """
        joined, records = [], {}
        for source in sources:
            try:
                for key in source.keys():
                    payload = None if key in records else source.read(key)
                    if payload is not None and self.is_sound(payload):
                        records[key] = RECORD.pack(key, file.tell(), len(payload))
                        file.write(_entry(key, payload))
            except OSError as error:
                if error.errno != errno.ESTALE:  # another machine joined it with others meanwhile
                    raise
            else:
                joined.append(source)
        return joined, sorted(records.values())

    def _open(self, known: dict[str, Segment]) -> list[Segment]:
        """A segment for each file that is there, the newest entries of logs included."""
        while True:
            names = self._names()
            try:
                known |= {name: Segment(self.folder / name) for name in names if name not in known}
            except FileNotFoundError:  # joined with others since it was listed
                continue
            found = [known[name] for name in names]
            for segment in found:
                segment.scan()
            return found

    def _names(self) -> list[str]:
        """Logs and packs, listed until two lists agree: one alone may miss both a new file and those it is made of."""
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
    """The payload's checksum as an entry's header has it; None if the header is damaged or another key's."""
    magic, found, _, payload_crc, crc = ENTRY.unpack(header[: ENTRY.size])
    is_whole = magic == ENTRY_MAGIC and crc == crc32(header[: ENTRY.size - 4])
    return payload_crc if is_whole and key in (None, found) else None


def _entry(key: bytes, payload: bytes) -> bytes:
    head = ENTRY.pack(ENTRY_MAGIC, key, len(payload), crc32(payload), 0)[:-4]
    return head + crc32(head).to_bytes(4, "little") + payload


def _write_index(file: BinaryIO, records: list[bytes]) -> None:
    footer = FOOTER.pack(FOOTER_MAGIC, file.tell(), len(records), 0)[:-4]
    _write_whole(file, b"".join(records) + footer + crc32(footer).to_bytes(4, "little"))


def _write_whole(file: BinaryIO, content: bytes) -> None:
    """An unbuffered file may take a part at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_AFTER_SECONDS
    except FileNotFoundError:  # another process renamed or removed it meanwhile
        return False


def _sync_folder(folder: Path) -> None:
    """Put renames on the disk before anything is removed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
