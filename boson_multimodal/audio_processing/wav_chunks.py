"""Read the chunks of a WAV file, to find the audio whose size the header does not state or states wrongly."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from boson_multimodal.audio_processing.audio_errors import IncompleteSound

MAGICS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
MAGICS_OF_64_BITS = (b"RF64", b"BW64")
MP3_TAGS = (0x50, 0x55)
"""Format tags of MPEG audio in a WAV file."""
STATED_IN_DS64 = 2**32 - 1
HEADER_SLIP_BYTES = 64
"""Some programs state the size of the file, or of the file without 8 bytes, as the size of its audio."""
OTHER_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
"""First bytes of what tag editors append to any sound file."""
SHORTEST_REST_SECONDS = 0.1
"""A shorter rest behind the chunks is not worth a message."""


@dataclass(frozen=True)
class WavAudio:
    """Where the audio of a WAV file is.

    Attributes:
        order: ``<`` or ``>``, the byte order of the numbers.
        tag: the format tag of the ``fmt`` chunk.
        byte_rate: bytes per second of audio.
        block: bytes of one block; a block of PCM is one sample of each channel.
        start: offset of the audio.
        stated: bytes of the audio according to the header.
    """

    order: str
    tag: int
    byte_rate: int
    block: int
    start: int
    stated: int


def is_unknown_size(size: int) -> bool:
    """Return whether a size of 32 bits stands for an unknown one.

    Programs that write to a pipe, or that were ended, leave 0 or about the largest signed or unsigned number. Some
    subtract the header, or round down to whole blocks.
    """
    return size == 0 or 0x7F00_0000 <= size <= 0x8010_0000 or 0xFFF0_0000 <= size <= 0xFFFF_FFFF


def check_end(file: BinaryIO, audio: WavAudio) -> None:
    """Check that libsndfile reads all audio of a WAV file.

    Raises:
        IncompleteSound: if the audio ends before its end, or further audio follows.
    """
    if is_unknown_size(audio.stated):
        return
    end = file.seek(0, io.SEEK_END)
    there = end - audio.start
    if audio.stated > there + HEADER_SLIP_BYTES and audio.stated // audio.block > there // audio.block:
        raise IncompleteSound(f"its header says {audio.stated} bytes of audio, {there} are there")
    if audio.stated < there:
        _check_behind(file, audio, end)


def find_audio(file: BinaryIO, start: int) -> WavAudio | None:
    """Return where the audio is; None if the file has no ``fmt`` and ``data`` chunk in this order."""
    end = file.seek(0, io.SEEK_END)
    file.seek(start)
    head = file.read(12)
    order = ">" if head[:4] == b"RIFX" else "<"
    form, large = b"", 0
    for name, size, at in _chunks(file, start + 12, end, order):
        if name == b"ds64":
            large = int.from_bytes(file.read(28)[8:16], "little")
        elif name == b"fmt " and size >= 16:
            form = file.read(16)
        elif name == b"data" and form:
            tag, _, _, byte_rate, block, _ = struct.unpack(f"{order}HHIIHH", form)
            stated = large if large and size in (0, STATED_IN_DS64) else size
            return WavAudio(order, tag, byte_rate, max(1, block), at, stated)
    return None


def with_stated_size(content: bytes, start: int) -> bytes | None:
    """Return a WAV file of unknown size with its true size in the header; None if libsndfile reads it to its end.

    libsndfile does not do so if the header states 0, or if a file with sizes of 64 bits states none. A file without
    any bytes behind its header, or with nothing but further chunks there, is empty: None.
    """
    file = io.BytesIO(content)
    audio = find_audio(file, start)
    has_64_bits = content[start : start + 4] in MAGICS_OF_64_BITS
    if audio is None or not (audio.stated == 0 or (has_64_bits and is_unknown_size(audio.stated))):
        return None
    at = audio.start
    for _, size, begin in _chunks(file, audio.start, len(content), audio.order):
        at = begin + size + size % 2
    if at >= len(content):
        return None
    size = struct.pack(f"{audio.order}I", min(len(content) - audio.start, STATED_IN_DS64))
    header = content[start : audio.start - 4]
    if has_64_bits:
        whole = struct.pack("<I", min(len(content) - start - 8, STATED_IN_DS64))
        header = b"RIFF" + whole + header[8:].replace(b"ds64", b"JUNK", 1)
    return header + size + content[audio.start :]


def _chunks(file: BinaryIO, at: int, end: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, size and offset of the content of each chunk, with the file at its content; stop at other bytes."""
    while at + 8 <= end:
        file.seek(at)
        name, size = struct.unpack(f"{order}4sI", file.read(8))
        if not (name.isascii() and name.decode("ascii").isprintable()):
            return
        yield name, size, at + 8
        at += 8 + size + size % 2


def _check_behind(file: BinaryIO, audio: WavAudio, end: int) -> None:
    """Check that what follows the audio is not audio too.

    Raises:
        IncompleteSound: if it is, or may be.
    """
    at = audio.start + audio.stated
    if audio.stated % 2:  # a byte should follow that makes the size even; some programs leave it out
        file.seek(at)
        at += not file.read(4).isalpha()
    for name, size, begin in _chunks(file, at, end, audio.order):
        is_wav = name in MAGICS and file.read(4) == b"WAVE"
        if is_wav or (name == b"data" and size):
            what = "a second WAV file" if is_wav else "a second block of audio"
            after = f"after {audio.stated / max(1, audio.byte_rate):.2f} s"
            raise IncompleteSound(f"{what} begins {after}, which players leave out", "join both with ffmpeg or sox")
        at = begin + size + size % 2
    file.seek(min(at, end))
    rest = end - min(at, end)
    if rest > SHORTEST_REST_SECONDS * audio.byte_rate and _may_be_audio(file):
        raise IncompleteSound(
            f"its header says {audio.stated} bytes of audio, {rest} bytes follow that belong to no chunk",
            "correct the header, or remove these bytes",
        )


def _may_be_audio(file: BinaryIO) -> bool:
    first = file.read(1 << 16)
    return any(first) and not first.startswith(OTHER_TAGS)
