"""Read the pages of an Ogg file, to find streams that follow one another and audio that is missing."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from zlib import crc32

from boson_multimodal.audio_processing.audio_errors import IncompleteSound

MAGIC = b"OggS"
HEADER_BYTES = 27
BLOCK_BYTES = 1 << 16
FIRST_OF_STREAM, LAST_OF_STREAM = 2, 4
"""Bits in a page's flags."""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        start, end: its place in the file.
        flags: see ``FIRST_OF_STREAM`` and ``LAST_OF_STREAM``.
        serial: the number of its stream.
        number: its number in its stream, from 0.
    """

    start: int
    end: int
    flags: int
    serial: int
    number: int


def stream_ends(file: BinaryIO, start: int) -> list[int]:
    """Return the end of each stream of a file in which streams follow one another; the first begins at ``start``.

    Raises:
        IncompleteSound: if pages are missing, or a stream has no last page.
    """
    ends: list[int] = []
    last: dict[int, Page] = {}
    """The last page of each stream that is open: several are if the file is multiplexed."""
    end, has_audio = start, False
    for page in _pages(file, start):
        if page.flags & FIRST_OF_STREAM and has_audio:
            _check_ends(last)
            ends.append(end)
            last, has_audio = {}, False
        before = last.get(page.serial)
        if before is None and not page.flags & FIRST_OF_STREAM:
            raise IncompleteSound("the first page of one of its Ogg streams is missing")
        if before is not None and page.number != before.number + 1:
            raise IncompleteSound(f"Ogg page {page.number} follows page {before.number}: audio between them is missing")
        last[page.serial] = page
        end, has_audio = page.end, has_audio or not page.flags & FIRST_OF_STREAM
    _check_ends(last)
    return [*ends, end]


def _check_ends(last: dict[int, Page]) -> None:
    if not all(page.flags & LAST_OF_STREAM for page in last.values()):
        raise IncompleteSound("its last Ogg page is not marked as the last")


def _pages(file: BinaryIO, at: int) -> Iterator[Page]:
    """Yield the pages; bytes between them are skipped, as decoders do.

    Raises:
        IncompleteSound: if the last page is cut.
    """
    size = file.seek(0, io.SEEK_END)
    while at < size:
        file.seek(at)
        header = file.read(HEADER_BYTES + 255)
        if header[:4] != MAGIC:
            at = _next_page(file, at + 1)
            continue
        segments = header[HEADER_BYTES : HEADER_BYTES + header[26]] if len(header) >= HEADER_BYTES else b""
        end = at + HEADER_BYTES + len(segments) + sum(segments)
        if len(header) < HEADER_BYTES or len(segments) < header[26] or end > size:
            raise IncompleteSound("its last Ogg page is cut")
        serial, number, checksum = (int.from_bytes(header[place : place + 4], "little") for place in (14, 18, 22))
        file.seek(at)
        if _checksum(file.read(22) + bytes(4) + file.read(end - at)[4 : end - at - 22]) != checksum:
            raise IncompleteSound(f"the checksum of its Ogg page {number} is wrong, so decoders leave the page out")
        yield Page(at, end, header[5], serial, number)
        at = end


def _checksum(page: bytes) -> int:
    """Return the CRC-32 of Ogg: zlib's with all bits in reverse order, and begun with 0."""
    reverse = crc32(page.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int.from_bytes(reverse.to_bytes(4, "little").translate(_REVERSED), "big")


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _next_page(file: BinaryIO, at: int) -> int:
    """Return the offset of the next page from ``at`` on, or the end of the file."""
    file.seek(at)
    kept = b""
    while block := file.read(BLOCK_BYTES):
        searched = kept + block
        if (found := searched.find(MAGIC)) >= 0:
            return at - len(kept) + found
        at, kept = at + len(block), searched[1 - len(MAGIC) :]
    return at
