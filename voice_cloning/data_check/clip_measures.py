"""What a clip sounds like, in numbers: level, silence, clipping, bandwidth, pitch. Without torch, for workers."""

from dataclasses import dataclass, field

import numpy as np

from boson_multimodal.audio_processing.sound_files import AudioError, Clip, content_hash, read_samples
from boson_multimodal.constants import CODEC_SAMPLE_RATE, FRAMES_PER_SECOND
from voice_cloning.data_check.same_speech import landmarks
from voice_cloning.data_check.truncation import truncation

FRAME_SECONDS = 0.020
"""Of level and silence."""
SILENCE_BELOW_SPEECH_DB = (20.0, 45.0)
"""Frames so far below the loud ones are silence: at least 20 dB, at most 45, in between 8 above the noise floor."""
ABOVE_FLOOR_DB = 8.0
DIGITAL_SILENCE_DBFS = -115.0
"""Zeros; the smallest steps of 16 bits are at -95."""
PAUSE_SECONDS = 0.2
"""Shorter silences belong to speech: the closures of its plosives."""
CUT_TOLERANCE_SECONDS = 0.1
"""Lengths in data files are often rounded to so much."""

OLD_NYQUISTS = (4000.0, 5512.5, 8000.0, 11025.0)
"""Half the usual rates below 24 kHz."""
BAND_LIMIT_DB = 22.0
"""Speech loses less than this from below such a frequency to above it: at most 19 dB in the 48 kHz recordings that this
was set on; at least 23 after resampling from 8, 11.025 and 16 kHz, at least 46 from 22.05 by a steep filter."""
SPECTRUM_SECONDS = 0.030
SPECTRUM_FRAMES = 400
"""Spectra that one clip is judged by."""
BAND_HZ = 500.0

PITCH_HZ = (60.0, 400.0)
PITCH_FRAME_SECONDS = 0.040
PITCH_FRAMES = 100
VOICED = 0.5
"""Autocorrelation, of 1, above which a frame is voiced."""
FEWEST_VOICED_FRAMES = 5


@dataclass(frozen=True)
class ClipMeasures:
    """What was measured of one clip.

    Attributes:
        content: SHA-256 of the file.
        problems: reasons why it cannot be used, by kind: ``unreadable``, ``empty``, ``nan``, ``truncated``.
        seconds: of the cut, as far as the file goes.
        sampling_rate: of the file, Hz.
        bandwidth_hz: where its energy stops, if that is below the codec's half rate and no speech does it; else None.
        active_dbfs: level of its loud frames (95th percentile of 20 ms), 0 for a square wave of full scale.
        peak_dbfs: largest sample.
        dc: mean sample, of full scale.
        clipped_share: share of samples in flat tops.
        silence_start, silence_end: seconds.
        silence_share: silence of ``PAUSE_SECONDS`` and more, ends included.
        pitch_hz: median of the voiced frames; None if there are few.
        landmarks: see ``same_speech.py``.
    """

    content: str = ""
    problems: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    sampling_rate: int = 0
    bandwidth_hz: float | None = None
    active_dbfs: float = 0.0
    peak_dbfs: float = 0.0
    dc: float = 0.0
    clipped_share: float = 0.0
    silence_start: float = 0.0
    silence_end: float = 0.0
    silence_share: float = 0.0
    pitch_hz: float | None = None
    landmarks: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint32), compare=False, repr=False)

    @property
    def speech_seconds(self) -> float:
        """Without the silence at its ends."""
        return self.seconds - self.silence_start - self.silence_end


def measure_file(clips: list[Clip]) -> list[ClipMeasures]:
    """Measure all cuts of one file, which is hashed and looked through once."""
    source = clips[0].source
    try:
        content = content_hash(source)
    except AudioError as error:
        return [ClipMeasures(problems={error.kind: str(error)}) for _ in clips]
    if not (source if isinstance(source, bytes) else source.stat().st_size):
        return [ClipMeasures(content, {"empty": f"{clip.name}: an empty file"}) for clip in clips]
    cut_short = truncation(source)
    problems = {"truncated": f"{clips[0].name}: {cut_short}; copy or export it again"} if cut_short else {}
    return [ClipMeasures(content, problems) if problems else measure_clip(clip, content) for clip in clips]


def measure_clip(clip: Clip, content: str) -> ClipMeasures:
    """Measure one cut of a file with the given SHA-256."""
    try:
        samples, rate = read_samples(clip)
    except AudioError as error:
        return ClipMeasures(content, {error.kind: str(error)})
    problems = {}
    wave = samples.mean(axis=1)
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
        peak_dbfs=round(float(_decibels(float(np.abs(wave).max()) ** 2)), 3),
        dc=float(wave.mean(dtype=np.float64)),
        clipped_share=clipped_share(samples),
        silence_start=start,
        silence_end=end,
        silence_share=share,
        pitch_hz=pitch(wave, rate, is_active),
        landmarks=landmarks(wave, rate),
    )


def frame_levels(wave: np.ndarray, rate: int) -> np.ndarray:
    """(frames,) level of each 20 ms in dBFS, its DC taken out; a clip shorter than that is one frame."""
    size = min(len(wave), max(1, round(FRAME_SECONDS * rate)))
    frames = wave[: len(wave) // size * size].reshape(-1, size)
    return _decibels(frames.var(axis=1))


def silence_threshold(levels: np.ndarray) -> float:
    """Level in dBFS below which a frame is silent: between its loud frames and its noise floor."""
    loud, floor = np.percentile(levels, [95, 10])
    least, most = SILENCE_BELOW_SPEECH_DB
    return max(DIGITAL_SILENCE_DBFS, float(np.clip(floor + ABOVE_FLOOR_DB, loud - most, loud - least)))


def silence(levels: np.ndarray) -> tuple[float, float, float]:
    """Seconds of silence at the start and at the end, and the share of silence, single pauses counted from 0.2 s on."""
    active = np.flatnonzero(levels >= silence_threshold(levels))
    edges = np.concatenate([[-1], active, [len(levels)]])
    pauses = np.diff(edges) - 1
    long = pauses[pauses * FRAME_SECONDS >= PAUSE_SECONDS]
    at_end = pauses[-1] if len(active) else 0
    return float(pauses[0] * FRAME_SECONDS), float(at_end * FRAME_SECONDS), float(long.sum() / len(levels))


def clipped_share(samples: np.ndarray) -> float:
    """Share of (samples, channels) that stand at their channel's extreme for three samples and more.

    Flat tops are found whatever the gain after them; a codec or a resampling after them hides them.
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
    """Frequency in Hz at which the energy of speech stops, where that is a rate's half below the codec's.

    Below and above each old Nyquist frequency the strongest spectra (95th percentile of each bin) are compared, so that
    a few fricatives are enough to show that the upper band is there.
    """
    size = 1 << round(np.log2(SPECTRUM_SECONDS * rate))
    frames = wave[: len(wave) // size * size].reshape(-1, size)
    if rate < CODEC_SAMPLE_RATE or not len(frames):
        return None
    at = np.minimum(((np.arange(len(frames)) + 0.5) * size / rate / FRAME_SECONDS).astype(int), len(is_active) - 1)
    active = frames[is_active[at]]
    if len(active) < 10:
        return None
    chosen = active[np.linspace(0, len(active) - 1, min(len(active), SPECTRUM_FRAMES)).astype(int)]
    power = np.abs(np.fft.rfft(chosen * np.hanning(size).astype(np.float32), axis=1)) ** 2
    strong, hertz = np.percentile(power, 95, axis=0), np.fft.rfftfreq(size, 1 / rate)
    top = CODEC_SAMPLE_RATE / 2
    for edge in OLD_NYQUISTS:
        below = _band(strong, hertz, 0.6 * edge, 0.85 * edge)
        starts = np.arange(1.04 * edge, top - BAND_HZ / 2, BAND_HZ)
        above = [_band(strong, hertz, low, min(low + BAND_HZ, top)) for low in starts]
        if below - max(above) > BAND_LIMIT_DB:
            bands = np.arange(0.0, edge + BAND_HZ, BAND_HZ / 2)
            present = [low for low in bands if _band(strong, hertz, low, low + BAND_HZ) > below - BAND_LIMIT_DB]
            return float(present[-1] + BAND_HZ / 2)
    return None


def pitch(wave: np.ndarray, rate: int, is_active: np.ndarray) -> float | None:
    """Median fundamental frequency in Hz, by autocorrelation of active frames."""
    step = max(1, rate // 8000)  # the aliases of a plain decimation do not move the period
    size, hop = round(PITCH_FRAME_SECONDS * rate), round(FRAME_SECONDS * rate)
    starts = np.flatnonzero(is_active) * hop
    starts = starts[starts + size <= len(wave)]
    if not len(starts):
        return None
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), PITCH_FRAMES)).astype(int)]
    frames = np.stack([wave[start : start + size : step] for start in starts])
    frames = frames - frames.mean(axis=1, keepdims=True)
    width = 2 * frames.shape[1]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, width, axis=1)) ** 2, axis=1)
    overlap = 1 - np.arange(frames.shape[1]) / frames.shape[1]
    lags = np.arange(int(rate / step / PITCH_HZ[1]), min(int(rate / step / PITCH_HZ[0]), frames.shape[1] // 2 + 1))
    normalised = correlation[:, lags] / overlap[lags] / np.maximum(correlation[:, :1], 1e-12)
    best = normalised.max(axis=1)
    # The first peak that is nearly as good: multiples of the period have peaks too.
    beside = np.pad(normalised, ((0, 0), (1, 1)), constant_values=-1.0)
    is_peak = (normalised >= beside[:, :-2]) & (normalised >= beside[:, 2:]) & (normalised > 0.9 * best[:, None])
    first = is_peak.argmax(axis=1)
    voiced = best > VOICED
    if voiced.sum() < FEWEST_VOICED_FRAMES:
        return None
    return float(np.median(rate / step / lags[first[voiced]]))


def _band(power: np.ndarray, hertz: np.ndarray, low: float, high: float) -> float:
    """Mean power of a band in dB."""
    found = power[(hertz >= low) & (hertz < high)]
    return _decibels(float(found.mean())) if len(found) else -120.0


def _decibels(power: np.ndarray | float) -> np.ndarray | float:
    return 10 * np.log10(power + 1e-12)
