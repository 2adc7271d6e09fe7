"""Divide a sound file into pieces that libsndfile reads to their end.

libsndfile takes the length from the header. Where a header states none or a wrong one, the piece is a copy in memory
whose header is right. Where files are joined, there is a piece for each. Sound WAV and FLAC files are known by their
header and their end, and stay as they are.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from boson_multimodal.audio_processing import flac_frames, mp3_frames, ogg_pages, wav_chunks

HEAD_BYTES = 1 << 16
"""Bytes that are read to find the kind of a file."""
LARGEST_SHARE_OF_TAGS = 0.009
"""Share of other bytes behind MPEG audio; with more than 0.01, libsndfile's decoder prints a warning."""
KNOWN_FILES = 256
"""Files of which it is remembered that libsndfile reads them whole. A data set often has many cuts of one file."""
_read_as_they_are: set[tuple[Path, int, int, int]] = set()
"""Path, size, time and number of each of these files."""


@dataclass(frozen=True)
class Piece:
    """A piece of a sound file.

    Attributes:
        source: a file, or the content of one.
        skipped: samples of its decoder to leave out at its start.
        samples: samples after these; None if libsndfile knows their number.
        has_no_frame: whether no frame of MPEG audio was found in it.
    """

    source: Path | bytes
    skipped: int = 0
    samples: int | None = None
    has_no_frame: bool = False


def pieces_of(source: Path | bytes) -> list[Piece]:
    """Return the pieces of a sound file, in order; a file of another kind is one piece.

    Raises:
        IncompleteSound: if audio is missing, or libsndfile would leave audio out.
        OSError: if the file cannot be read.
    """
    if isinstance(source, bytes):
        return _pieces(io.BytesIO(source), source)
    facts = source.stat()
    version = source, facts.st_size, facts.st_mtime_ns, facts.st_ino
    if version in _read_as_they_are:
        return [Piece(source)]
    with source.open("rb") as file:
        pieces = _pieces(file, source)
    if pieces == [Piece(source)]:
        if len(_read_as_they_are) >= KNOWN_FILES:
            _read_as_they_are.clear()
        _read_as_they_are.add(version)
    return pieces


def _pieces(file: BinaryIO, source: Path | bytes) -> list[Piece]:
    head = file.read(HEAD_BYTES)
    start = mp3_frames.id3v2_end(head, 0)
    if start >= len(head) - 4:  # a tag with a picture
        file.seek(start)
        magic = file.read(12)
    else:
        magic = head[start : start + 12]
    if magic[:4] in wav_chunks.MAGICS and magic[8:] == b"WAVE":
        return _wav_pieces(file, start, source)
    if magic[:4] == flac_frames.MAGIC:
        if flac_frames.is_stated_length_right(file, start):
            return [Piece(source)]
        return [Piece(stream) for stream in flac_frames.whole_streams(_whole(file), start)] or [Piece(source)]
    if magic[:4] == ogg_pages.MAGIC:
        return _ogg_pieces(file, start, source)
    is_mpeg = magic[:1] == b"\xff" or start > 0
    if is_mpeg or isinstance(source, bytes) or source.suffix.lower().startswith(".mp"):
        return _mp3_pieces(_whole(file), start, source)
    return [Piece(source)]


def _wav_pieces(file: BinaryIO, start: int, source: Path | bytes) -> list[Piece]:
    audio = wav_chunks.find_audio(file, start)
    if audio is None:
        return [Piece(source)]
    wav_chunks.check_end(file, audio)
    if audio.tag in wav_chunks.MP3_TAGS:
        content = _whole(file)
        end = len(content) if wav_chunks.is_unknown_size(audio.stated) else audio.start + audio.stated
        return _mp3_pieces(content[:end], audio.start, source)
    is_unknown = wav_chunks.is_unknown_size(audio.stated)
    repaired = wav_chunks.with_stated_size(_whole(file), start) if is_unknown else None
    if repaired is None and start:  # behind a tag, libsndfile leaves out as many bytes as the tag has
        repaired = _whole(file)[start:]
    return [Piece(source if repaired is None else repaired)]


def _ogg_pieces(file: BinaryIO, start: int, source: Path | bytes) -> list[Piece]:
    ends = ogg_pages.stream_ends(file, start)
    if len(ends) == 1 and start == 0:
        return [Piece(source)]
    content = _whole(file)
    return [Piece(content[begin:end]) for begin, end in zip([start, *ends], ends, strict=False)]


def _mp3_pieces(content: bytes, start: int, source: Path | bytes) -> list[Piece]:
    parts = mp3_frames.whole_parts(content, start)
    if len(parts) == 1 and parts[0].skipped == 0 and parts[0].samples is None:
        other_bytes = len(content) - start - len(parts[0].content)
        if other_bytes <= LARGEST_SHARE_OF_TAGS * len(content) and content.find(parts[0].content, start) >= 0:
            return [Piece(source)]  # nothing to repair
    return [Piece(part.content, part.skipped, part.samples) for part in parts] or [
        Piece(content[start:] if start else source, has_no_frame=True)
    ]


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()
