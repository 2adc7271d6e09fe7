"""Find the silence in a sound: the level of each 20 ms, and which of them are silent.

Data check and the figures of spoken clips use these measures. librosa has the same frames and decibels (``util.frame``,
``power_to_db``); it is not used because the trainer would load it, with numba and scipy, for these two. Workers import
this module without torch.
"""

import numpy as np

LEAST_POWER = 1e-12
"""The lowest power in a level: -120 dBFS, below the smallest step of 16 bits."""
FRAME_SECONDS = 0.020
"""Length of the frames for level and silence."""
SILENCE_BELOW_SPEECH_DB = (20.0, 45.0)
"""A frame is silent below the noise floor plus 8 dB. This threshold stays 20 to 45 dB below the loud frames."""
ABOVE_FLOOR_DB = 8.0
FLOOR_PERCENTILE = 10
"""Percentile of the frames' levels that stands for the noise floor."""
DIGITAL_SILENCE_DBFS = -115.0
"""Level of zeros. The smallest steps of 16 bits are at -95 dBFS."""
PAUSE_SECONDS = 0.2
"""Shorter silences are part of speech, such as the closures of plosives."""


def frame_levels(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return the (frames,) level of each 20 ms in dBFS, without DC. A shorter clip is one frame.

    librosa.feature.rms is not used: it includes DC and changes slower than a frame.
    """
    size = min(len(wave), max(1, round(FRAME_SECONDS * rate)))
    return decibels(wave[: len(wave) // size * size].reshape(-1, size).var(axis=1))


def silence_threshold(levels: np.ndarray, loud: float | None = None) -> float:
    """Return the level in dBFS below which a frame is silent.

    Args:
        levels: (frames,) the result of :func:`frame_levels`.
        loud: the level of the speech; by default the 95th percentile, for clips of which a twentieth is speech.
    """
    high, floor = np.percentile(levels, [95, FLOOR_PERCENTILE])
    loud = high if loud is None else loud
    least, most = SILENCE_BELOW_SPEECH_DB
    return max(DIGITAL_SILENCE_DBFS, float(np.clip(floor + ABOVE_FLOOR_DB, loud - most, loud - least)))


def silence(levels: np.ndarray, threshold: float | None = None) -> tuple[float, float, float]:
    """Return the seconds of silence at the start and at the end, and the share of silences of 0.2 s or more.

    Frames below ``threshold`` are silent, by default that of :func:`silence_threshold`.

    librosa.effects.split is not used: its threshold is a fixed distance below the loudest frame and ignores the noise
    floor. With our threshold it finds the same, but it computes the levels a second time.
    """
    active = np.flatnonzero(levels >= (silence_threshold(levels) if threshold is None else threshold))
    edges = np.concatenate([[-1], active, [len(levels)]])
    pauses = np.diff(edges) - 1
    long = pauses[pauses * FRAME_SECONDS >= PAUSE_SECONDS]
    at_end = pauses[-1] if len(active) else 0
    return float(pauses[0] * FRAME_SECONDS), float(at_end * FRAME_SECONDS), float(long.sum() / len(levels))


def decibels(power: np.ndarray) -> np.ndarray:
    """Return powers in dB, at least -120."""
    return 10.0 * np.log10(np.maximum(LEAST_POWER, power))
