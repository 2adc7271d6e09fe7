"""Audio that a data set holds itself: what a value is as an audio file, and whether it is cut already."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

from boson_multimodal.audio_processing.sound_files import Clip, read_samples
from voice_cloning.corpora.cell_values import WrongValue
from voice_cloning.corpora.utterances import LATEST_END, ROUNDING, seconds_of

RATE_COLUMNS = ("sampling_rate", "sample_rate", "samplerate", "sr", "audio_sampling_rate")
"""Usual names, in lower case, of a column with the rate of bare samples; the first one is that of structures too."""
INT16_SCALE = 32768
INT32_SCALE = 2**31
MP3 = ".mp3"
_SUFFIXES = {b"RIFF": ".wav", b"RF64": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"FORM": ".aiff", b"caff": ".caf"}
"""First bytes of an audio file -> suffix; a file with other first bytes is taken for MP3."""


@dataclass(frozen=True)
class HeldAudio:
    """Audio that a value holds.

    Attributes:
        content: an audio file; empty if the value only names a file.
        suffix: of the file.
        was_integer: whether the value holds 16-bit whole numbers as floats, which were divided by 32768.
    """

    content: bytes = b""
    suffix: str = ""
    was_integer: bool = False


def held_audio(value: Any, rate: Any, rate_column: str | None = None) -> HeldAudio:
    """Return the audio that a value of an audio column holds: a structure, bytes, samples, or nothing but a path.

    Args:
        rate: samples per second, if the value holds bare samples.
        rate_column: the column that it is from, for messages.

    Raises:
        WrongValue: if it holds samples that are no audio, or no rate.
    """
    samples = value if isinstance(value, list | np.ndarray) else None
    content = value if isinstance(value, bytes) else b""
    if isinstance(value, dict):
        content = value.get("bytes") or b""
        samples, rate = value.get("array"), value.get(RATE_COLUMNS[0], rate)
    if content:
        return HeldAudio(content, _SUFFIXES.get(content[:4], MP3))
    if samples is None:
        return HeldAudio()
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not is_number or not 1000 <= rate <= 1_000_000 or rate != int(rate):
        name = rate_column or RATE_COLUMNS[0]
        raise WrongValue(f"its samples need their rate in {name}, a whole number in Hz, not {rate!r}")
    try:
        wave = np.asarray(samples, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise WrongValue(f"its samples are no numbers ({error})") from error
    if wave.ndim == 2 and wave.shape[0] < wave.shape[1]:  # (channels, samples), as librosa holds them
        wave = wave.T
    if wave.ndim not in (1, 2) or wave.size == 0:
        raise WrongValue(f"its samples have the shape {list(wave.shape)}; (samples) or (samples, channels) is needed")
    scale, was_integer = _scale(wave, getattr(samples, "dtype", None))
    return HeldAudio(wav_of((wave / scale).astype(np.float32), int(rate)), ".wav", was_integer)


def _scale(wave: np.ndarray, kind: np.dtype | None) -> tuple[int, bool]:
    """Return the value of full scale, and whether the samples are 16-bit numbers that another type holds."""
    largest = np.abs(wave).max()
    if kind == np.int16:
        return INT16_SCALE, False
    # Whole numbers beyond 1 are those of a WAV file of 16 bits; librosa and others divide them by 32768.
    if 1 < largest <= INT16_SCALE and bool(np.all(wave == np.round(wave))):
        return INT16_SCALE, True
    return (INT32_SCALE if kind == np.int32 and largest > INT16_SCALE else 1), False


def wav_of(samples: np.ndarray, rate: int) -> bytes:
    """Return a WAV file that holds (samples,) or (samples, channels) exactly: 16 bits if these hold it, else floats."""
    scaled = samples * INT16_SCALE
    is_integer = bool(np.all(scaled == np.round(scaled)) and np.all(np.abs(samples) < 1))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16" if is_integer else "FLOAT")
    return file.getvalue()


@dataclass(frozen=True)
class MeasuredAudio:
    """The audio of an utterance inside a data set, measured.

    Attributes:
        seconds: the length of the utterance.
        offset, duration: its cut of the held audio in seconds; None if the audio is the utterance.
    """

    seconds: float
    offset: float | None = None
    duration: float | None = None


@dataclass
class HeldCounts:
    """How many rows hold audio in a way that the user should know of."""

    integers: int = 0
    cut: int = 0
    cut_before: int = 0

    def add(self, length: MeasuredAudio, *, is_named: bool, was_integer: bool = False) -> None:
        """Count a row; ``is_named`` says whether it names a cut."""
        self.integers += was_integer
        self.cut += length.offset is not None
        self.cut_before += is_named and length.offset is None

    def facts(self) -> list[str]:
        """Return what was found, for the user."""
        shown = {
            "rows with samples of 16 bits as other numbers, which are divided by 32768": self.integers,
            "rows that hold a recording, of which the cut is written": self.cut,
            "rows that hold the cut itself; their times are those of the recording": self.cut_before,
        }
        return [f"{what}: {rows}" for what, rows in shown.items() if rows]


def measured(content: bytes, name: str, offset: float | None, duration: float | None) -> MeasuredAudio:
    """Measure held audio whose row names a cut of a recording.

    Some data sets hold the recording in each row, others the cut, beside times that are those of the recording. The
    length tells which it is.

    Args:
        name: of the audio in messages.

    Raises:
        WrongValue: if the audio is neither that long nor holds the cut.
        InputError: if it cannot be read.
    """
    length = seconds_of(content, name)
    if offset is None or (offset == 0 and duration is None):
        return MeasuredAudio(length)
    end = length if duration is None else offset + duration
    if offset < length and end <= length + ROUNDING:
        return MeasuredAudio(min(end, length) - offset, offset, min(end, length) - offset)
    if duration is not None and abs(length - duration) <= LATEST_END:
        return MeasuredAudio(length)
    if offset < length and end <= length + LATEST_END:
        return MeasuredAudio(length - offset, offset, length - offset)
    lasts = "" if duration is None else f", which lasts {duration:g} s"
    raise WrongValue(
        f"its cut is from {offset:g} to {end:g} s{lasts}, but the audio in the row lasts {length:g} s; the audio must "
        "be the recording or the cut, and times are in seconds"
    )


def cut_of(content: bytes, offset: float, duration: float) -> bytes:
    """Return a WAV file with a cut of an audio file; times in seconds."""
    samples, rate = read_samples(Clip(content, offset, duration))
    return wav_of(samples, rate)
