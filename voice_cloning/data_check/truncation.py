"""Whether a sound file ends before its own header says: decoders often read such a file without a word."""

import io
import re
from pathlib import Path
from typing import BinaryIO

import soundfile

XING_WITHIN_BYTES = 200
"""Where the name of an MP3's Xing or Info frame stands: after its header and side information, 36 bytes at most."""
OGG_PAGE_BYTES = 27 + 255 + 255 * 255
"""The longest page: a header, a table of 255 segments, and these."""
OGG_LAST_PAGE = 4
"""Bit of a page header's flags."""
UNKNOWN_SIZES = (0, 2**32 - 1)
"""What programs that write to a pipe put where the size belongs."""
# libsndfile's log on WAV and RF64, AIFF, W64 and AU whose size is not that of the file.
_WRONG_SIZE = re.compile(r"(?:RIFF|RF64|riff|FORM|Data Size)\s*: (\d+) \(should be (\d+)\)")


def truncation(source: Path | bytes) -> str | None:
    """How a file shows that its end is missing; None if it does not, or if it is no sound file.

    WAV, AIFF, W64 and AU hold their size; FLAC its number of samples; MP3 its size, where it begins with a Xing or Info
    frame, as nearly all do; Ogg marks its last page.
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
    """Whether as many bytes are there as the Xing or Info frame says (decoders fill up what is missing)."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3":  # a tag before it; seven bits of each byte hold its size
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
    """Whether the last page is there, and is marked as the last."""
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
