"""Encode a wave as a WAV file, to be written, sent or hashed."""

import io

import numpy as np
import soundfile
from torch import Tensor


def wav_bytes(samples: Tensor, sampling_rate: int) -> bytes:
    """Encode (samples,) in -1..1 as a mono WAV file of 16 bits. Samples outside that range are clipped."""
    pcm = np.round(samples.clamp(-1.0, 1.0).numpy() * 32767.0).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, pcm, sampling_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()
