"""What one clip measures: length, level, silence, clipping, band, pitch. Runs in worker processes, without torch."""

from dataclasses import dataclass, field

import numpy as np

from boson_multimodal.audio_processing.sound_files import Clip, content_hash, read_samples
from boson_multimodal.errors import InputError

FRAME_SECONDS = 0.02
QUIET_DBFS = -60.0
"""A frame below this is silence, whatever the clip."""
QUIET_BELOW_SPEECH_DB = 40.0
"""So is one that far below the clip's loud frames (the 95th percentile)."""


@dataclass
class AudioFacts:
    """One clip as read.

    Attributes:
        problem: (kind of error, what is wrong); None for a sound clip. Without sound, the rest is unset.
        digest: SHA-256 of the file.
        samples, rate, channels, seconds: of the cut.
        peak_dbfs, level_dbfs: of the loudest sample, and of the frames that are not silent.
        silence_start, silence_end: seconds of silence at the ends.
        silence_share: of all frames.
    """

    problem: tuple[str, str] | None = None
    digest: str = ""
    samples: int = 0
    rate: int = 1
    channels: int = 0
    seconds: float = 0.0
    peak_dbfs: float = -np.inf
    level_dbfs: float = -np.inf
    silence_start: float = 0.0
    silence_end: float = 0.0
    silence_share: float = 1.0
    fingerprint: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))


def measure_clip(clip: Clip) -> AudioFacts:
    """Read a clip and measure it; what is wrong with it is noted, not raised."""
    try:
        digest = content_hash(clip.source)
        stored, rate = read_samples(clip)
    except InputError as error:
        return AudioFacts(problem=("unreadable_audio", str(error)))
    if not np.isfinite(stored).all():
        return AudioFacts(problem=("nan_audio", f"{clip.name}: holds NaN or infinite samples"), digest=digest)
    mono = stored.mean(axis=1)
    facts = AudioFacts(None, digest, len(mono), rate, stored.shape[1], len(mono) / rate)
    facts.peak_dbfs = decibels(float(np.abs(stored).max()))
    levels = frame_levels(mono, rate)
    loud = levels > max(QUIET_DBFS, np.percentile(levels, 95) - QUIET_BELOW_SPEECH_DB)
    if loud.any():
        facts.level_dbfs = 10 * float(np.log10(np.mean(10 ** (levels[loud] / 10))))
        facts.silence_start = float(np.argmax(loud)) * FRAME_SECONDS
        facts.silence_end = float(np.argmax(loud[::-1])) * FRAME_SECONDS
        facts.silence_share = 1.0 - float(loud.mean())
    return facts


def frame_levels(mono: np.ndarray, rate: int) -> np.ndarray:
    """(frames,) level of each 20 ms in dBFS; a last frame that is not whole counts as one."""
    size = max(1, round(FRAME_SECONDS * rate))
    starts = np.arange(0, len(mono), size)
    energy = np.add.reduceat(mono.astype(np.float64) ** 2, starts) / np.diff(starts, append=len(mono))
    return 10 * np.log10(np.maximum(energy, 1e-20))


def decibels(amplitude: float) -> float:
    """Of an amplitude in full scale."""
    return 20 * float(np.log10(max(amplitude, 1e-10)))
