"""Sound files: which cut of which file, its samples as they are stored, its identity by content. Without torch."""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

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
        """The clip that a record names; relative paths are relative to ``base_dir``."""
        source: Path | bytes = content.raw_audio or b""
        if content.audio_url:
            source = base_dir / os.path.expanduser(content.audio_url)  # leaves ~nobody as it is; Path's raises
        return cls(source, float(content.offset or 0.0), None if content.duration is None else float(content.duration))

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{len(self.source)} bytes" if isinstance(self.source, bytes) else str(self.source)


def content_hash(source: Path | bytes) -> str:
    """SHA-256 of the encoded file.

    Raises:
        InputError: if the file is missing or cannot be opened.
    """
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        str(source).encode()  # a name that is no UTF-8 opens, but not for libsndfile
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file; paths are absolute or relative to the JSON file") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); give an audio file") from error
    except ValueError as error:  # a null byte, or half a surrogate pair
        raise InputError(f"{str(source)!r}: not a path ({error}); give an audio file of another name") from error


def read_samples(clip: Clip) -> tuple[np.ndarray, int]:
    """Read a clip as it is stored.

    Returns:
        (samples, channels) float32, at least one sample, and how many there are in a second.

    Raises:
        InputError: if it cannot be decoded or is empty.
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
    return samples, rate
