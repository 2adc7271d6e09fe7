"""Decide from the samples of a clip whether it is silent, and whether its channels cancel each other.

Trainer, synthesis and data check all use these measures.
"""

import numpy as np

SILENT_DBFS = -80.0
"""A clip whose samples all stay below this level is silent. The smallest step of 16 bits is at -90 dBFS, and the noise
of a quiet recording above -75 dBFS."""
CANCELLED_DB = -15.0
"""Level of the mean of the channels, relative to the mean of as loud channels that have nothing in common. A voice on
one channel or on two microphones gives about 0 dB or more."""


def largest_sample(samples: np.ndarray) -> float:
    """Return the largest absolute value of (samples, channels); NaN if one of them is."""
    return max(float(samples.max()), -float(samples.min()))


def is_silent(wave: np.ndarray) -> bool:
    """Return whether (samples,) are silent: none of them is further than ``SILENT_DBFS`` from their mean."""
    return float(np.abs(wave - wave.mean()).max()) < 10 ** (SILENT_DBFS / 20)


def cancels(samples: np.ndarray) -> bool:
    """Return whether the channels of (samples, channels) cancel each other in mono, as with one channel inverted."""
    channels = samples.shape[1]
    if channels == 1:
        return False
    mixed = np.square(samples.mean(axis=1), dtype=np.float64).sum()
    alone = np.square(samples, dtype=np.float64).sum() / channels**2
    is_heard = any(not is_silent(channel) for channel in samples.T)
    return bool(is_heard and mixed < alone * 10 ** (CANCELLED_DB / 10))
