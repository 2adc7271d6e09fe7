"""Measure the sound of a clip: level, silence, clipping, bandwidth, pitch. Workers import this without torch.

Pitch comes from librosa. Level, silence, bandwidth and clipping are our own code; their functions say why, and
``python -m benchmarks.clip_measures`` prints the figures. librosa loads its parts at their first use, so a process that
only imports this module does not need the 1.5 s of CPU time and the 200 MB that they take.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import librosa
import numpy as np

from boson_multimodal.audio_processing.silence import (
    DIGITAL_SILENCE_DBFS,
    FLOOR_PERCENTILE,
    FRAME_SECONDS,
    LEAST_POWER,
    decibels,
    frame_levels,
    silence,
    silence_threshold,
)
from boson_multimodal.audio_processing.sound_files import (
    CUT_TOLERANCE_SECONDS,
    AudioError,
    Clip,
    content_hash,
    mono,
    read_samples,
)
from boson_multimodal.audio_processing.sound_levels import is_silent
from boson_multimodal.constants import CODEC_SAMPLE_RATE, FRAMES_PER_SECOND
from boson_multimodal.errors import InputError
from voice_cloning.data_check.code_measures import CodeMeasures
from voice_cloning.data_check.same_speech import landmarks

OLD_NYQUISTS = (4000.0, 5512.5, 8000.0, 11025.0)
"""Nyquist frequencies of the usual rates below 24 kHz."""
BAND_LIMIT_DB = 22.0
"""A larger fall of the level at a Nyquist frequency shows upsampling. Recordings at 48 kHz fall by at most 19 dB.
Speech resampled from 8, 11.025 and 16 kHz falls by at least 23 dB, from 22.05 kHz with a steep filter by 46 dB."""
SPECTRUM_SECONDS = 0.030
SPECTRUM_FRAMES = 400
"""The most spectra that are computed for one clip."""
BAND_HZ = 500.0

PITCH_HZ = (60.0, 400.0)
PITCH_FRAME_SECONDS = 0.040
PITCH_FRAMES = 100
PITCH_RATE = 8000
PITCH_TROUGH = 0.2
"""Threshold of yin: with librosa's 0.1 a voice without its fundamental, as on a telephone, seems an octave lower."""
VOICED = 0.5
"""A frame is voiced if its correlation with itself one period later is above this."""
FEWEST_VOICED_FRAMES = 5
CODE_PROBLEMS = ("missing", "invalid")
"""Kinds of problems that are problems of codes, not of sound."""


@dataclass(frozen=True)
class ClipMeasures:
    """The measures of one clip.

    Attributes:
        content: SHA-256 of the file.
        problems: reasons why the clip cannot be used, by kind (see ``AudioError``); of codes: ``missing``, ``invalid``.
        seconds: length of the cut, up to the end of the file.
        sampling_rate: sampling rate of the file in Hz.
        bandwidth_hz: frequency where the energy stops, if speech would go on there and the codec would keep it; else
            None.
        active_dbfs: level of the loud frames (95th percentile of 20 ms); 0 for a square wave of full scale.
        floor_dbfs: level of the quiet frames: 10th percentile of those that are not digital silence, which hides noise.
        peak_dbfs: level of the largest sample.
        dc: mean of the samples as a share of full scale.
        clipped_share: share of samples in flat tops.
        silence_start, silence_end: seconds of silence at the ends.
        silence_share: share of silences of ``PAUSE_SECONDS`` or more, ends included.
        is_silent: whether no sample is loud enough to be heard.
        pitch_hz: median pitch of the voiced frames; None if there are few.
        landmarks: see ``same_speech.py``.
        codes: measures of the clip's codes, if it is checked from codes. The measures of sound are then those of the
            decoded codes, or are missing.
    """

    content: str = ""
    problems: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    sampling_rate: int = 0
    bandwidth_hz: float | None = None
    active_dbfs: float = 0.0
    floor_dbfs: float = 0.0
    peak_dbfs: float = 0.0
    dc: float = 0.0
    clipped_share: float = 0.0
    silence_start: float = 0.0
    silence_end: float = 0.0
    silence_share: float = 0.0
    is_silent: bool = False
    pitch_hz: float | None = None
    landmarks: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint32), compare=False, repr=False)
    codes: CodeMeasures | None = field(default=None, compare=False, repr=False)

    @property
    def is_heard(self) -> bool:
        """Whether a waveform was measured. Without one, only the lengths and ``codes`` are known."""
        return self.sampling_rate > 0

    @property
    def speech_seconds(self) -> float:
        """Length without the silence at the ends."""
        return self.seconds - self.silence_start - self.silence_end

    @property
    def snr_db(self) -> float:
        """Level of the loud frames above the quiet ones. In speech without a pause the quiet ones are speech too."""
        return self.active_dbfs - self.floor_dbfs

    @property
    def band_hz(self) -> float:
        """Highest frequency that the clip holds, of those that the codec keeps; below 24 kHz, half of its rate."""
        held = min(self.sampling_rate, CODEC_SAMPLE_RATE) / 2
        return held if self.bandwidth_hz is None else min(held, self.bandwidth_hz)


def measure_file(clips: list[Clip]) -> list[ClipMeasures]:
    """Measure all cuts of one file. The file is hashed once.

    Raises:
        InputError: if librosa has no writable folder for its compiled functions.
    """
    load_librosa()
    source = clips[0].source
    try:
        content = content_hash(source)
    except AudioError as error:
        return [ClipMeasures(problems={error.kind: str(error)}) for _ in clips]
    return [measure_clip(clip, content) for clip in clips]


def content_of(source: Path | bytes) -> str:
    """Return the SHA-256 of a file; an empty text if it cannot be read, which :func:`measure_file` explains."""
    try:
        return content_hash(source)
    except AudioError:
        return ""


def load_librosa() -> None:
    """Load the parts of librosa that this module uses.

    Raises:
        InputError: if librosa has no writable folder for its compiled functions.
    """
    try:
        for name in ("util", "yin"):
            getattr(librosa, name)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        raise InputError(
            "NUMBA_CACHE_DIR: librosa cannot write its compiled functions there, beside itself or in the user's cache; "
            "set it to a writable folder"
        ) from error


def measure_clip(clip: Clip, content: str) -> ClipMeasures:
    """Measure one cut of a file that has the given SHA-256."""
    try:
        samples, rate = read_samples(clip)
    except AudioError as error:
        return ClipMeasures(content, {error.kind: str(error)})
    problems = {}
    try:
        wave = mono(samples, clip.name)
    except AudioError as error:
        problems, wave = {error.kind: str(error)}, samples.mean(axis=1)
    seconds = len(wave) / rate
    if seconds * FRAMES_PER_SECOND < 1:
        least = 1 / FRAMES_PER_SECOND
        problems = {"empty": f"{clip.name}: {seconds:g} s of audio; a clip has at least {least:g} s"}
    elif clip.duration is not None and clip.duration > seconds + CUT_TOLERANCE_SECONDS:
        wanted = f"{clip.duration:g} s from {clip.offset:g} s on"
        problems = {"truncated": f"{clip.name}: {wanted} are asked for, {seconds:.2f} s are there"}
    levels = frame_levels(wave, rate)
    start, end, share = silence(levels)
    is_active = levels >= silence_threshold(levels)
    return ClipMeasures(
        content=content,
        problems=problems,
        seconds=seconds,
        sampling_rate=rate,
        bandwidth_hz=band_limit(wave, rate, is_active),
        active_dbfs=float(np.percentile(levels, 95)),
        floor_dbfs=noise_floor(levels),
        peak_dbfs=round(float(decibels(np.abs(wave).max() ** 2)), 3),
        dc=float(wave.mean(dtype=np.float64)),
        clipped_share=clipped_share(samples),
        silence_start=start,
        silence_end=end,
        silence_share=share,
        is_silent=is_silent(wave),
        pitch_hz=pitch(wave, rate, is_active),
        landmarks=landmarks(wave, rate),
    )


def noise_floor(levels: np.ndarray) -> float:
    """Return the level in dBFS of the quiet ones of (frames,) levels; frames of digital silence do not count."""
    heard = levels[levels > DIGITAL_SILENCE_DBFS]
    return float(np.percentile(heard, FLOOR_PERCENTILE)) if len(heard) else float(levels.min())


def clipped_share(samples: np.ndarray) -> float:
    """Return the share of (samples, channels) that stay at the extreme of their channel for three samples or more.

    A later gain does not hide flat tops; a later codec or resampling does. librosa has no such measure.
    """
    count = 0
    for channel in samples.T:
        for extreme in (channel.max(), channel.min()):
            if abs(extreme) > 0.05:  # below it, 16 bits are coarse enough for flat tops
                at = np.concatenate([[0], (channel == extreme).astype(np.int8), [0]])
                lengths = np.flatnonzero(np.diff(at) == -1) - np.flatnonzero(np.diff(at) == 1)
                count += int(lengths[lengths >= 3].sum())
    return count / samples.size


def band_limit(wave: np.ndarray, rate: int, is_active: np.ndarray) -> float | None:
    """Return the frequency in Hz where the energy of speech stops, if it is near one of ``OLD_NYQUISTS``, else None.

    The strongest spectra (95th percentile of each bin) are compared below and above each frequency, so a few fricatives
    suffice to show the upper band. librosa.stft gives the same result but transforms every frame, not only
    ``SPECTRUM_FRAMES``. librosa's spectral roll-off does not separate upsampled speech from other speech.
    """
    if rate < CODEC_SAMPLE_RATE:
        return None
    size = 1 << round(np.log2(SPECTRUM_SECONDS * rate))
    if len(wave) < size:
        return None
    frames = librosa.util.frame(wave, frame_length=size, hop_length=size, axis=0)
    at = np.minimum(((np.arange(len(frames)) + 0.5) * size / rate / FRAME_SECONDS).astype(int), len(is_active) - 1)
    active = frames[is_active[at]]
    if len(active) < 10:
        return None
    chosen = active[np.linspace(0, len(active) - 1, min(len(active), SPECTRUM_FRAMES)).astype(int)]
    power = np.abs(np.fft.rfft(chosen * np.hanning(size).astype(np.float32), axis=1)) ** 2
    return band_edge(np.percentile(power, 95, axis=0), np.fft.rfftfreq(size, 1 / rate))


def band_edge(strong: np.ndarray, hertz: np.ndarray) -> float | None:
    """Return the frequency where a spectrum of (lines,) powers at (lines,) ``hertz`` stops, as :func:`band_limit`."""
    top = CODEC_SAMPLE_RATE / 2
    for edge in OLD_NYQUISTS:
        starts = np.arange(1.04 * edge, top - BAND_HZ / 2, BAND_HZ)
        above = _band_levels(strong, hertz, starts, np.minimum(starts + BAND_HZ, top))
        below = _band_levels(strong, hertz, [0.6 * edge], [0.85 * edge])[0]
        if below - above.max() > BAND_LIMIT_DB:
            bands = np.arange(0.0, edge + BAND_HZ, BAND_HZ / 2)
            present = bands[_band_levels(strong, hertz, bands, bands + BAND_HZ) > below - BAND_LIMIT_DB]
            return float(present[-1] + BAND_HZ / 2)
    return None


def pitch(wave: np.ndarray, rate: int, is_active: np.ndarray) -> float | None:
    """Return the median fundamental frequency in Hz of the voiced frames among the active ones (20 ms apart).

    It is computed by librosa.yin. librosa.pyin takes 111 ms for 5 s of speech, yin takes 1 ms.

    Returns:
        None if fewer than ``FEWEST_VOICED_FRAMES`` are voiced, or if ``rate`` is too low to hold a voice.
    """
    size, hop = round(PITCH_FRAME_SECONDS * rate), round(FRAME_SECONDS * rate)
    lowest, highest = PITCH_HZ
    if rate < 2 * highest or len(wave) < size:
        return None
    frames = librosa.util.frame(wave, frame_length=size, hop_length=hop, axis=0)
    active = np.flatnonzero(is_active[: len(frames)])
    if len(active) < FEWEST_VOICED_FRAMES:
        return None
    chosen = active[np.linspace(0, len(active) - 1, min(len(active), PITCH_FRAMES)).astype(int)]
    step = max(1, rate // PITCH_RATE)  # aliases of this decimation do not change the period
    frames = frames[chosen, ::step]
    frames = frames - frames.mean(axis=1, keepdims=True)
    # Each frame is a channel, so that yin computes the chosen frames only.
    hertz = librosa.yin(
        frames,
        fmin=lowest,
        fmax=highest,
        sr=rate / step,
        frame_length=frames.shape[1],
        center=False,
        trough_threshold=PITCH_TROUGH,
    )[:, 0]
    is_voiced = _self_correlation(frames, np.round(rate / step / hertz).astype(int)) > VOICED
    return float(np.median(hertz[is_voiced])) if is_voiced.sum() >= FEWEST_VOICED_FRAMES else None


def _self_correlation(frames: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Return the (frames,) normalised correlation of each of (frames, samples) with itself after (frames,) ``lags``."""
    size = frames.shape[1]
    at = np.arange(size) + lags[:, None]
    later = np.take_along_axis(frames, np.minimum(at, size - 1), axis=1)
    earlier, later = np.where(at < size, frames, 0), np.where(at < size, later, 0)
    energies = np.linalg.norm(earlier, axis=1) * np.linalg.norm(later, axis=1)
    return np.einsum("ij,ij->i", earlier, later) / np.maximum(energies, LEAST_POWER)


def _band_levels(power: np.ndarray, hertz: np.ndarray, lows: Sequence[float], highs: Sequence[float]) -> np.ndarray:
    """Return the (bands,) mean power in dB between each of ``lows`` and each of ``highs``, in Hz."""
    bands = [power[(hertz >= low) & (hertz < high)] for low, high in zip(lows, highs, strict=True)]
    return decibels(np.array([band.mean() if len(band) else 0.0 for band in bands]))
