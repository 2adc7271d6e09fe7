"""Audio clips on disk: reading a cut of a file as a mono waveform, and its identity by content."""

import hashlib
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from boson_multimodal.constants import CODEC_SAMPLE_RATE
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError

LARGEST_RESAMPLING_KERNEL = 10**8
"""Coefficients that a rate may need: 3 s at 44101 Hz took 18 GB and a minute; every rate in use is far below."""

SEMANTIC_SAMPLE_RATE = 16_000
"""Samples per second in the codec's semantic branch, a HuBERT."""
SEMANTIC_WINDOW_SAMPLES = 400
"""Samples that HuBERT's convolutions see at once."""
SEMANTIC_PADDING_SAMPLES = 2 * 160
"""Zeros that the codec puts around the wave for it."""


@dataclass(frozen=True)
class Clip:
    """One cut of one audio file.

    Attributes:
        source: the file's path, or its bytes where the record held them.
        offset: seconds skipped at its start.
        duration: seconds kept at most; None keeps the rest.
    """

    source: Path | bytes
    offset: float
    duration: float | None

    @classmethod
    def of(cls, content: AudioContent, base_dir: Path) -> "Clip":
        """The clip that a record names; relative paths are relative to ``base_dir``."""
        source: Path | bytes = content.raw_audio or b""
        if content.audio_url:
            source = base_dir / os.path.expanduser(content.audio_url)  # leaves ~nobody as it is; Path's raises
        return cls(source, float(content.offset or 0.0), None if content.duration is None else float(content.duration))

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{len(self.source)} bytes" if isinstance(self.source, bytes) else str(self.source)


@dataclass(frozen=True)
class Waveform:
    """A mono waveform as read: (samples,) float32 and its native rate."""

    samples: Tensor
    sampling_rate: int

    @property
    def seconds(self) -> float:
        return self.samples.numel() / self.sampling_rate

    def resampled(self, sampling_rate: int) -> Tensor:
        """(samples,) at another rate (windowed sinc, torchaudio's defaults)."""
        return torchaudio.functional.resample(self.samples, self.sampling_rate, sampling_rate)


def resampled_length(samples: int, sampling_rate: int, new_rate: int) -> int:
    """Samples that :meth:`Waveform.resampled` gives: torchaudio rounds the quotient to float32, and then up."""
    common = math.gcd(sampling_rate, new_rate)
    quotient = (new_rate // common) * samples / (sampling_rate // common)
    return samples if sampling_rate == new_rate else math.ceil(np.float32(quotient))


def content_hash(source: Path | bytes) -> str:
    """SHA-256 of the encoded file.

    Raises:
        InputError: if the file is missing or cannot be opened.
    """
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file; paths are absolute or relative to the JSON file") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); give an audio file") from error
    except ValueError as error:  # a null byte, or half a surrogate pair
        raise InputError(f"{str(source)!r}: not a path ({error}); give an audio file") from error


def read_waveform(clip: Clip) -> Waveform:
    """Read a clip, any rate and channel count, as mono.

    Raises:
        InputError: if it cannot be decoded, is empty, has an unusual rate, or holds NaN or infinite samples.
    """
    source = io.BytesIO(clip.source) if isinstance(clip.source, bytes) else clip.source
    try:
        with soundfile.SoundFile(source) as file:
            rate = file.samplerate
            file.seek(round(min(clip.offset * rate, file.frames)))
            wanted = -1 if clip.duration is None else max(1, round(min(clip.duration * rate, file.frames)))
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: a .raw file, which names no rate
        raise InputError(f"{clip.name}: not readable as audio ({error}); give WAV, FLAC, OGG or MP3") from error
    if samples.shape[0] == 0:
        cut = f" after an offset of {clip.offset:g} s" if clip.offset else ""
        raise InputError(f"{clip.name}: empty audio{cut}; a clip needs at least one sample")
    common = math.gcd(rate, CODEC_SAMPLE_RATE)
    if (rate // common) * (CODEC_SAMPLE_RATE // common) > LARGEST_RESAMPLING_KERNEL:
        raise InputError(f"{clip.name}: {rate} samples per second is no usual rate; convert it to 24000 or 48000")
    if not np.isfinite(samples).all():
        raise InputError(f"{clip.name}: holds NaN or infinite samples; export it again")
    return Waveform(torch.from_numpy(samples.mean(axis=1)), rate)


def frames_of(samples: int, sampling_rate: int, frames_per_second: float) -> int:
    """Code frames that the codec makes of a waveform.

    Its semantic branch decides: a frame is there as soon as its first window is, once the wave is resampled twice.
    """
    at_codec_rate = -(-samples * CODEC_SAMPLE_RATE // sampling_rate)
    at_semantic_rate = -(-at_codec_rate * SEMANTIC_SAMPLE_RATE // CODEC_SAMPLE_RATE)
    first_window = SEMANTIC_WINDOW_SAMPLES - SEMANTIC_PADDING_SAMPLES
    return math.floor((at_semantic_rate - first_window) * frames_per_second / SEMANTIC_SAMPLE_RATE) + 1
