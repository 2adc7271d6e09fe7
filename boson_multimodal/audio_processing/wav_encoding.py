"""Encode a wave as a WAV file or as raw samples, to be written, sent or hashed."""

import io

import numpy as np
import soundfile
from torch import Tensor


def wav_bytes(samples: Tensor, sampling_rate: int) -> bytes:
    """Encode (samples,) in -1..1 as a mono WAV file of 16 bits. Samples outside that range are clipped."""
    file = io.BytesIO()
    soundfile.write(file, _pcm(samples), sampling_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def pcm_bytes(samples: Tensor) -> bytes:
    """Encode (samples,) in -1..1 as 16 bits each, little-endian, without a header: the samples of :func:`wav_bytes`."""
    return _pcm(samples).astype("<i2").tobytes()


def _pcm(samples: Tensor) -> np.ndarray:
    return np.round(samples.clamp(-1.0, 1.0).numpy() * 32767.0).astype(np.int16)
