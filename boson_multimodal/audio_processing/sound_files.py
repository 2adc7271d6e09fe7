"""Read cuts of sound files and hash their content. This module does not import torch."""

import hashlib
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from boson_multimodal.constants import CODEC_SAMPLE_RATE
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError

LARGEST_RESAMPLING_KERNEL = 10**8
"""The most coefficients of a resampling kernel. Usual rates need far fewer; 3 s at 44101 Hz took 18 GB and a minute."""

LARGEST_SAMPLE = 1e10
"""No usual format has samples this large: full scale is 1. Squares of larger samples would soon be infinite."""
BLOCK_SAMPLES = 1 << 22
"""Samples that one call reads: 3 minutes at 24 kHz."""


class AudioError(InputError):
    """A clip cannot be used. ``kind`` is "unreadable", "empty" or "nan"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return AudioError, (self.kind, str(self))  # for pickling: worker processes return it


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


def content_hash(source: Path | bytes) -> str:
    """Return the SHA-256 of the encoded file.

    Raises:
        AudioError: if the file is missing or cannot be opened.
    """
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        str(source).encode()  # raises for a name that is not UTF-8: open() accepts it, libsndfile does not
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        message = f"{source}: no such file; paths are absolute or relative to the JSON file"
        raise AudioError("unreadable", message) from error
    except OSError as error:
        raise AudioError("unreadable", f"{source}: cannot be read ({error.strerror}); give an audio file") from error
    except ValueError as error:  # a null byte, or half a surrogate pair
        message = f"{str(source)!r}: not a path ({error}); give an audio file of another name"
        raise AudioError("unreadable", message) from error


def read_samples(clip: Clip) -> tuple[np.ndarray, int]:
    """Read a clip with the rate and the channels of its file.

    Returns:
        (samples, channels) float32 with at least one sample, and the samples per second.

    Raises:
        AudioError: if the clip cannot be decoded, is empty, has an unusual rate, or holds NaN or infinite samples.
    """
    source = io.BytesIO(clip.source) if isinstance(clip.source, bytes) else clip.source
    try:
        with soundfile.SoundFile(source) as file:
            rate, frames = file.samplerate, max(0, file.frames)  # a damaged header may give a negative number
            file.seek(round(min(clip.offset * rate, frames)))
            wanted = frames if clip.duration is None else max(1, round(min(clip.duration * rate, frames)))
            samples = _read(file, wanted)
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        # TypeError: a .raw file, which has no rate. ValueError: a damaged header whose numbers contradict each other.
        message = f"{clip.name}: not readable as audio ({error}); give WAV, FLAC, OGG or MP3"
        raise AudioError("unreadable", message) from error
    if samples.shape[0] == 0:
        cut = f" after an offset of {clip.offset:g} s" if clip.offset else ""
        raise AudioError("empty", f"{clip.name}: empty audio{cut}; a clip needs at least one sample")
    common = math.gcd(rate, CODEC_SAMPLE_RATE)
    if (rate // common) * (CODEC_SAMPLE_RATE // common) > LARGEST_RESAMPLING_KERNEL:
        message = f"{clip.name}: {rate} samples per second is no usual rate; convert it to 24000 or 48000"
        raise AudioError("unreadable", message)
    if not np.abs(samples).max() < LARGEST_SAMPLE:  # this form is also true for NaN
        raise AudioError("nan", f"{clip.name}: holds NaN or infinite samples; export it again")
    return samples, rate


def _read(file: soundfile.SoundFile, wanted: int) -> np.ndarray:
    """Return the next (samples, channels) of an open file, at most ``wanted``.

    The file is read in blocks: a damaged header may give a length beyond the memory, and soundfile would allocate all
    of it at once.
    """
    blocks = [np.zeros((0, file.channels), np.float32)]
    while wanted > 0:
        size = min(wanted, BLOCK_SAMPLES)
        blocks.append(file.read(size, dtype="float32", always_2d=True))
        wanted = wanted - size if len(blocks[-1]) == size else 0
    return blocks[-1] if len(blocks) <= 2 else np.concatenate(blocks)
