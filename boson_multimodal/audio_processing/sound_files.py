"""Read sound files: their length, cuts of them, and a hash of their content. This module does not import torch.

All parts of the project ask this module, so that a file has one length for all of them: what a player plays, up to the
end. A file of which something is missing is refused.
"""

import hashlib
import io
import math
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from boson_multimodal.audio_processing.audio_errors import EXPORT_AGAIN, AudioError, IncompleteSound
from boson_multimodal.audio_processing.sound_levels import cancels, largest_sample
from boson_multimodal.audio_processing.sound_streams import Piece, pieces_of
from boson_multimodal.audio_processing.wav_chunks import is_unknown_size
from boson_multimodal.constants import CODEC_SAMPLE_RATE
from boson_multimodal.data_types import AudioContent

LARGEST_RESAMPLING_KERNEL = 10**8
"""The most coefficients of a resampling kernel. Usual rates need far fewer; 3 s at 44101 Hz took 18 GB and a minute."""

LARGEST_SAMPLE = 1e10
"""No usual format has samples this large: full scale is 1. Squares of larger samples would soon be infinite."""
LARGEST_LEVEL = 16.0
"""The largest sample of usable audio, as a multiple of full scale. Sound with a larger one was not scaled to -1..1: its
numbers are those of 8, 16 or 32 bits."""
CUT_TOLERANCE_SECONDS = 0.1
"""A cut may end this much after its file, because lists round times. Beyond that, the end of the audio is missing."""
BLOCK_SAMPLES = 1 << 22
"""Samples that one call reads, of all channels together: 3 minutes of mono at 24 kHz."""
# libsndfile's log on an AIFF, W64 or AU file whose stated size differs from the file's.
_WRONG_SIZE = re.compile(r"(?:riff|FORM|Data Size)\s*: (\d+) \(should be (\d+)\)")


@dataclass(frozen=True)
class Clip:
    """A cut of an audio file.

    Attributes:
        source: the file's path, or its bytes if the record holds them.
        offset: seconds to skip at the start of the file.
        duration: the most seconds to read after that; None reads the rest.
    """

    source: Path | bytes
    offset: float
    duration: float | None

    @classmethod
    def of(cls, content: AudioContent, base_dir: Path) -> "Clip":
        """Return the clip that a record names. Relative paths are relative to ``base_dir``."""
        source: Path | bytes = content.raw_audio or b""
        if content.audio_url:
            source = base_dir / os.path.expanduser(content.audio_url)  # leaves ~nobody as it is; Path.expanduser raises
        return cls(source, float(content.offset or 0.0), None if content.duration is None else float(content.duration))

    @property
    def name(self) -> str:
        """The name of the clip in messages."""
        return f"{len(self.source)} bytes" if isinstance(self.source, bytes) else str(self.source)


@dataclass(frozen=True)
class SoundLength:
    """The length of a sound file.

    Attributes:
        frames: samples of each channel, at least one.
        sampling_rate: samples per second.
        channels: number of channels.
        holds_floats: whether samples are stored as floats, which may be NaN or far beyond full scale.
    """

    frames: int
    sampling_rate: int
    channels: int
    holds_floats: bool = False

    @property
    def seconds(self) -> float:
        return self.frames / self.sampling_rate


def content_hash(source: Path | bytes) -> str:
    """Return the SHA-256 of the encoded file.

    Raises:
        AudioError: if the file is missing or cannot be opened.
    """
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with _name_read_errors(source), source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sound_length(source: Path | bytes, name: str | None = None) -> SoundLength:
    """Return the length of a sound file: as many samples as :func:`read_samples` gives of the whole file.

    The header and the end of a sound WAV or FLAC file suffice; of others more is read. Damage in the middle of a file
    is not found here, but by :func:`read_samples`.

    Args:
        name: the name of the file in messages.

    Raises:
        AudioError: if the file is missing, cannot be decoded, is empty, is not whole, or has an unusual rate.
    """
    name = name or Clip(source, 0.0, None).name
    frames, found, holds_floats = 0, None, False
    for piece in _pieces(source, name):
        with _opened(piece, name) as file:
            found = _check_format(file, found, name, frames)
            holds_floats |= file.subtype in ("FLOAT", "DOUBLE")
            length = _frames(file, piece)
            is_sound = file.format != "FLAC" or _has_last_sample(file)
        if not is_sound:
            with _opened(piece, name) as file:
                _read(file, 0, length, name)  # names the damage, or shows that only the search for the end failed
        frames += length
    if found is None or frames == 0:
        raise AudioError("empty", f"{name}: empty audio; a clip needs at least one sample")
    return SoundLength(frames, *found, holds_floats)


def read_samples(clip: Clip, name: str | None = None) -> tuple[np.ndarray, int]:
    """Read a clip with the rate and the channels of its file.

    Args:
        name: what messages call the clip; None takes ``clip.name``.

    Returns:
        (samples, channels) float32 with at least one sample, and the samples per second.

    Raises:
        AudioError: if the clip cannot be decoded, is empty, has an unusual rate, holds NaN, infinite samples or samples
            far beyond full scale; or if its file is not whole.
    """
    name = clip.name if name is None else name
    blocks: list[np.ndarray] = []
    found, wanted, at = None, None, 0
    for piece in _pieces(clip.source, name):
        with _opened(piece, name) as file:
            found = _check_format(file, found, name, at)
            rate = found[0]
            start = round(min(clip.offset * rate, sys.maxsize))
            if wanted is None:
                wanted = sys.maxsize if clip.duration is None else round(min(clip.duration * rate, sys.maxsize))
                wanted = max(1, wanted)
            frames = _frames(file, piece)
            first = min(frames, max(0, start - at))
            count = min(wanted, frames - first)
            blocks += _read(file, piece.skipped + first, count, name)
            wanted, at = wanted - count, at + frames
        if wanted == 0:
            break
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [np.zeros((0, 1), np.float32)])
    if found is None or samples.shape[0] == 0:
        cut = f" after an offset of {clip.offset:g} s" if clip.offset else ""
        raise AudioError("empty", f"{name}: empty audio{cut}; a clip needs at least one sample")
    _check_levels(samples, name)
    return samples, found[0]


def read_mono(clip: Clip) -> tuple[np.ndarray, int]:
    """Read a clip as mono: the mean of its channels.

    Returns:
        (samples,) float32 with at least one sample, and the samples per second.

    Raises:
        AudioError: like :func:`read_samples`, and if the channels cancel each other.
    """
    samples, rate = read_samples(clip)
    return mono(samples, clip.name), rate


def mono(samples: np.ndarray, name: str) -> np.ndarray:
    """Return the (samples,) mean of (samples, channels).

    Raises:
        AudioError: if the channels cancel each other.
    """
    if cancels(samples):
        message = f"{name}: its channels cancel each other in mono; invert one of them, or export a single channel"
        raise AudioError("cancelled", message)
    return samples.mean(axis=1)


@contextmanager
def _name_read_errors(source: Path) -> Iterator[None]:
    """Turn the errors of opening and reading a file into an ``AudioError`` that names it."""
    try:
        str(source).encode()  # raises for a name that is not UTF-8: open() accepts it, libsndfile does not
        mode = source.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a pipe or a device would wait, or never end
            raise AudioError("unreadable", f"{source}: a pipe or a device; give an audio file")
        yield
    except FileNotFoundError as error:
        message = f"{source}: no such file; paths are absolute or relative to the JSON file"
        raise AudioError("unreadable", message) from error
    except OSError as error:
        raise AudioError("unreadable", f"{source}: cannot be read ({error.strerror}); give an audio file") from error
    except AudioError:
        raise
    except ValueError as error:  # a null byte, or half a surrogate pair
        message = f"{str(source)!r}: not a path ({error}); give an audio file of another name"
        raise AudioError("unreadable", message) from error


def _pieces(source: Path | bytes, name: str) -> list[Piece]:
    """Return the pieces of a file.

    Raises:
        AudioError: if the file is missing, empty, or not whole.
    """
    try:
        if isinstance(source, bytes):
            is_empty, pieces = not source, pieces_of(source)
        else:
            with _name_read_errors(source):
                pieces = pieces_of(source)
                is_empty = source.stat().st_size == 0
    except IncompleteSound as error:
        raise AudioError("truncated", f"{name}: {error}; {error.advice}") from error
    if is_empty:
        raise AudioError("empty", f"{name}: an empty file; {EXPORT_AGAIN}")
    return pieces


@contextmanager
def _opened(piece: Piece, name: str) -> Iterator[soundfile.SoundFile]:
    """Open a piece with libsndfile; an error of opening or decoding it becomes an ``AudioError``."""
    source = _Content(piece.source) if isinstance(piece.source, bytes) else piece.source
    try:
        with soundfile.SoundFile(source) as file:
            log = _WRONG_SIZE.search(file.extra_info)
            if log and not is_unknown_size(int(log[1])) and int(log[1]) > int(log[2]):
                wrong = f"its header says {log[1]} bytes, {log[2]} are there"
                raise AudioError("truncated", f"{name}: {wrong}; {EXPORT_AGAIN}")
            if file.format == "MP3" and piece.has_no_frame:
                raise AudioError("unreadable", f"{name}: no whole frame of MPEG audio is in it; {EXPORT_AGAIN}")
            yield file
    except soundfile.LibsndfileError as error:
        reason = error.error_string
        if "does not exist" in reason and (isinstance(source, _Content) or source.is_file()):
            reason = "it holds no MPEG audio"  # libsndfile names files without a frame of MP3 so
        message = f"{name}: not readable as audio ({reason}); give WAV, FLAC, OGG or MP3"
        raise AudioError("unreadable", message) from error
    except (OSError, TypeError) as error:  # TypeError: a .raw file, which has no rate
        message = f"{name}: not readable as audio ({type(error).__name__}); give WAV, FLAC, OGG or MP3"
        raise AudioError("unreadable", message) from error


def _check_format(file: soundfile.SoundFile, before: tuple[int, int] | None, name: str, frames: int) -> tuple[int, int]:
    """Return the rate and the channels of a piece, which must be those of the piece before.

    Raises:
        AudioError: if they differ, or the rate is unusual.
    """
    found = file.samplerate, file.channels
    rate = file.samplerate
    common = math.gcd(rate, CODEC_SAMPLE_RATE)
    if (rate // common) * (CODEC_SAMPLE_RATE // common) > LARGEST_RESAMPLING_KERNEL:
        message = f"{name}: {rate} samples per second is no usual rate; convert it to 24000 or 48000"
        raise AudioError("unreadable", message)
    if before is not None and found != before:
        was, now = (f"{hertz} Hz with {channels} channel(s)" for hertz, channels in (before, found))
        message = f"{name}: joined from {was} and, after {frames / before[0]:.2f} s, {now}; convert both to one form"
        raise AudioError("unreadable", message)
    return found


def _frames(file: soundfile.SoundFile, piece: Piece) -> int:
    """Return the number of samples of each channel. A damaged header may give a negative number to libsndfile."""
    return max(0, file.frames - piece.skipped) if piece.samples is None else piece.samples


def _has_last_sample(file: soundfile.SoundFile) -> bool:
    """Return whether the last sample that the header states can be decoded."""
    try:
        file.seek(max(0, file.frames - 1))
        return len(file.read(1)) == 1
    except soundfile.LibsndfileError:
        return False


def _read(file: soundfile.SoundFile, start: int, count: int, name: str) -> list[np.ndarray]:
    """Return ``count`` samples of an open file from ``start`` on, as blocks of (samples, channels).

    The file is read in blocks: a damaged header may give a length beyond the memory, and soundfile would allocate all
    of it at once.

    Raises:
        AudioError: if fewer samples are there, or they cannot be decoded.
    """
    blocks, end = [], start + count
    try:
        file.seek(start)
        while start < end:
            size = min(end - start, max(1, BLOCK_SAMPLES // file.channels))
            blocks.append(file.read(size, dtype="float32", always_2d=True))
            start += len(blocks[-1])
            if len(blocks[-1]) < size:
                missing = f"its header says {file.frames} samples, {start} are there"
                raise AudioError("truncated", f"{name}: {missing}; {EXPORT_AGAIN}")
    except soundfile.LibsndfileError as error:
        message = f"{name}: its audio is damaged or breaks off ({error.error_string}); {EXPORT_AGAIN}"
        raise AudioError("truncated", message) from error
    return blocks


def _check_levels(samples: np.ndarray, name: str) -> None:
    """Check that samples are usable numbers.

    Raises:
        AudioError: if they are not.
    """
    largest = largest_sample(samples)
    if not largest < LARGEST_SAMPLE:  # this form is also true for NaN
        raise AudioError("nan", f"{name}: holds NaN or infinite samples; export it again")
    if largest > LARGEST_LEVEL:
        message = f"{name}: its largest sample is {largest:.5g} times full scale; export it again, scaled to -1..1"
        raise AudioError("overscaled", message)


class _Content(io.BytesIO):
    """A file in memory for libsndfile, whose seeks may follow damaged headers to places before the start."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_CUR: self.tell(), io.SEEK_END: len(self.getbuffer())}.get(whence, 0)
        return super().seek(max(0, base + offset))
