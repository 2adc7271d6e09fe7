"""Finds sound files that end before the end that their header states; decoders often read these without an error."""

import io
import re
from pathlib import Path
from typing import BinaryIO

import soundfile

XING_WITHIN_BYTES = 200
"""The name Xing or Info is in these first bytes of an MP3, after at most 36 bytes of header and side information."""
OGG_PAGE_BYTES = 27 + 255 + 255 * 255
"""Size of the longest page: a header, a table of 255 segments, and the segments."""
OGG_LAST_PAGE = 4
"""Bit in a page header's flags that marks the last page."""
UNKNOWN_SIZES = (0, 2**32 - 1)
"""Sizes in the header of a file that a program wrote to a pipe."""
# libsndfile's log on a WAV, RF64, AIFF, W64 or AU file whose stated size differs from the file's.
_WRONG_SIZE = re.compile(r"(?:RIFF|RF64|riff|FORM|Data Size)\s*: (\d+) \(should be (\d+)\)")


def truncation(source: Path | bytes) -> str | None:
    """Return how a file shows that its end is missing; None if it does not, or if it is no sound file.

    WAV, AIFF, W64 and AU state their size; FLAC states its number of samples. MP3 states its size if it starts with a
    Xing or Info frame, as nearly all MP3 files do. Ogg marks its last page.
    """
    content = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with content as file:
        head = file.read(4)
        if head == b"OggS":
            return _ogg_truncation(file)
        if head[:3] == b"ID3" or head[:1] == b"\xff":
            return _mp3_truncation(file)
        file.seek(0)
        try:
            with soundfile.SoundFile(file) as sound:
                found = _WRONG_SIZE.search(sound.extra_info)
                if found and int(found[1]) not in UNKNOWN_SIZES and int(found[1]) > int(found[2]):
                    return f"its header says {found[1]} bytes, {found[2]} are there"
                decoded = sum(len(b) for b in sound.blocks(2**16, dtype="float32")) if head == b"fLaC" else sound.frames
                return (
                    f"its header says {sound.frames} samples, {decoded} are there" if decoded < sound.frames else None
                )
        except soundfile.LibsndfileError as error:
            return f"its FLAC stream breaks off ({error})" if head == b"fLaC" else None


def _mp3_truncation(file: BinaryIO) -> str | None:
    """Compare the file's size with its Xing or Info frame; decoders replace missing audio without an error."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3":  # a tag before the audio; seven bits of each byte hold the tag's size
        start = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
    file.seek(start)
    frame = file.read(XING_WITHIN_BYTES)
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    flags = int.from_bytes(frame[tag + 4 : tag + 8], "big")
    if tag < 0 or not flags & 2:
        return None
    at = tag + (12 if flags & 1 else 8)
    wanted = int.from_bytes(frame[at : at + 4], "big")
    return f"its header says {wanted} bytes, {size - start} are there" if wanted > size - start else None


def _ogg_truncation(file: BinaryIO) -> str | None:
    """Check that the last page is complete and marked as the last."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - OGG_PAGE_BYTES))
    tail = file.read()
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return "its last Ogg page is cut"
    if 27 + page[26] + sum(page[27 : 27 + page[26]]) > len(page):
        return "its last Ogg page is cut"
    return None if page[5] & OGG_LAST_PAGE else "its last Ogg page is not marked as the last"
