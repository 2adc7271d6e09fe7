"""Whether a sound file ends before its own header says: decoders often read such a file without a word."""

import io
import re
from pathlib import Path

import soundfile

HEADER_BYTES = 4096
"""Where an MP3's Xing or Info header would be found."""
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

    WAV, AIFF, W64 and AU hold their size; FLAC and MP3 (with a Xing or Info header) their number of samples; Ogg marks
    its last page. An MP3 without that header cannot tell.
    """
    content = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with content as file:
        head = file.read(HEADER_BYTES)
        if head[:4] == b"OggS":
            return _ogg_truncation(file)
        file.seek(0)
        try:
            with soundfile.SoundFile(file) as sound:
                found = _WRONG_SIZE.search(sound.extra_info)
                if found and int(found[1]) not in UNKNOWN_SIZES and int(found[1]) > int(found[2]):
                    return f"its header says {int(found[1])} bytes, {found[2]} are there"
                if head[:4] == b"fLaC" or b"Xing" in head or b"Info" in head:
                    return _missing_samples(sound)
        except soundfile.LibsndfileError as error:
            return f"its FLAC stream breaks off ({error})" if head[:4] == b"fLaC" else None
    return None


def _missing_samples(sound: soundfile.SoundFile) -> str | None:
    """Whether as many samples can be decoded as the header says."""
    if sound.format not in ("FLAC", "MP3", "MPEG"):
        return None
    decoded = sum(len(block) for block in sound.blocks(2**16, dtype="float32"))
    return f"its header says {sound.frames} samples, {decoded} are there" if decoded < sound.frames else None


def _ogg_truncation(file: io.BufferedIOBase) -> str | None:
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
