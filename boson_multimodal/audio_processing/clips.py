"""Audio clips as mono waveforms: reading them, and how long they are for the codec."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torchaudio
from torch import Tensor

from boson_multimodal.audio_processing.sound_files import Clip, read_samples
from boson_multimodal.constants import CODEC_SAMPLE_RATE

SEMANTIC_SAMPLE_RATE = 16_000
"""Samples per second in the codec's semantic branch, a HuBERT."""
SEMANTIC_WINDOW_SAMPLES = 400
"""Samples that HuBERT's convolutions see at once."""
SEMANTIC_PADDING_SAMPLES = 2 * 160
"""Zeros that the codec puts around the wave for it."""


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


def resampled_length(samples: int, sampling_rate: int, new_rate: int) -> int:
    """Samples that :meth:`Waveform.resampled` gives: torchaudio rounds the quotient to float32, and then up."""
    common = math.gcd(sampling_rate, new_rate)
    quotient = (new_rate // common) * samples / (sampling_rate // common)
    return samples if sampling_rate == new_rate else math.ceil(np.float32(quotient))


def read_waveform(clip: Clip) -> Waveform:
    """Read a clip, any rate and channel count, as mono.

    Raises:
        AudioError: if it cannot be decoded, is empty, has an unusual rate, or holds NaN or infinite samples.
    """
    samples, rate = read_samples(clip)
    return Waveform(torch.from_numpy(samples.mean(axis=1)), rate)


def frames_of(samples: int, sampling_rate: int, frames_per_second: float) -> int:
    """Code frames that the codec makes of a waveform.

    Its semantic branch decides: a frame is there as soon as its first window is, once the wave is resampled twice.
    """
    at_codec_rate = -(-samples * CODEC_SAMPLE_RATE // sampling_rate)
    at_semantic_rate = -(-at_codec_rate * SEMANTIC_SAMPLE_RATE // CODEC_SAMPLE_RATE)
    first_window = SEMANTIC_WINDOW_SAMPLES - SEMANTIC_PADDING_SAMPLES
    return math.floor((at_semantic_rate - first_window) * frames_per_second / SEMANTIC_SAMPLE_RATE) + 1
