"""Audio clips on disk: reading a cut of a file as a mono waveform, and its identity by content."""

import base64
import binascii
import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError


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
        """The clip that a record names; relative paths are relative to ``base_dir``.

        Raises:
            InputError: if ``raw_audio`` is not base64.
        """
        if content.audio_url:
            source: Path | bytes = base_dir / Path(content.audio_url).expanduser()
        else:
            try:
                source = base64.b64decode(content.raw_audio or "", validate=True)
            except binascii.Error as error:
                raise InputError(f"raw_audio: not base64 ({error})") from error
        return cls(source, float(content.offset or 0.0), None if content.duration is None else float(content.duration))

    @property
    def name(self) -> str:
        """What messages call it."""
        return "raw_audio" if isinstance(self.source, bytes) else str(self.source)


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
        raise InputError(f"{source}: no such file") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})") from error


def read_waveform(clip: Clip) -> Waveform:
    """Read a clip, any rate and channel count, as mono.

    Raises:
        InputError: if it cannot be decoded, is empty, or holds NaN or infinite samples.
    """
    source = io.BytesIO(clip.source) if isinstance(clip.source, bytes) else clip.source
    try:
        with soundfile.SoundFile(source) as file:
            rate = file.samplerate
            first = min(round(clip.offset * rate), file.frames)
            file.seek(first)
            wanted = -1 if clip.duration is None else max(1, round(clip.duration * rate))
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{clip.name}: not readable as audio ({error})") from error
    if samples.shape[0] == 0:
        cut = f" after an offset of {clip.offset:g} s" if clip.offset else ""
        raise InputError(f"{clip.name}: empty audio{cut}; a clip needs at least one sample")
    if not np.isfinite(samples).all():
        raise InputError(f"{clip.name}: holds NaN or infinite samples; export it again")
    return Waveform(torch.from_numpy(samples.mean(axis=1)), rate)


def frames_of(seconds: float, frames_per_second: float) -> int:
    """Code frames that the codec makes of ``seconds`` of audio, to within one; exact counts come from the codes."""
    return math.ceil(seconds * frames_per_second)
