"""Read audio clips as mono waveforms, and compute how many frames the codec makes of them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torchaudio
from torch import Tensor

from boson_multimodal.audio_processing.sound_files import Clip, read_mono
from boson_multimodal.audio_processing.sound_levels import is_silent
from boson_multimodal.constants import CODEC_SAMPLE_RATE

SEMANTIC_SAMPLE_RATE = 16_000
"""Samples per second of the input of the codec's semantic branch, a HuBERT."""
SEMANTIC_WINDOW_SAMPLES = 400
"""The receptive field of HuBERT's convolutions, in samples."""
SEMANTIC_PADDING_SAMPLES = 2 * 160
"""The number of zeros that the codec adds around the input of the semantic branch."""


@dataclass(frozen=True)
class Waveform:
    """A mono waveform as stored in its file: (samples,) float32, and its rate in Hz."""

    samples: Tensor
    sampling_rate: int

    @property
    def seconds(self) -> float:
        return self.samples.numel() / self.sampling_rate

    @property
    def is_silent(self) -> bool:
        """Whether it is silent (see ``sound_levels.py``)."""
        return is_silent(self.samples.numpy())

    def resampled(self, sampling_rate: int) -> Tensor:
        """Return the (samples,) at another rate (windowed sinc, torchaudio's defaults)."""
        return torchaudio.functional.resample(self.samples, self.sampling_rate, sampling_rate)


def resampled_length(samples: int, sampling_rate: int, new_rate: int) -> int:
    """Return the number of samples of :meth:`Waveform.resampled`.

    torchaudio rounds the quotient to float32 and then up.
    """
    common = math.gcd(sampling_rate, new_rate)
    quotient = (new_rate // common) * samples / (sampling_rate // common)
    return samples if sampling_rate == new_rate else math.ceil(np.float32(quotient))


def read_waveform(clip: Clip) -> Waveform:
    """Read a clip of any rate and channel count as mono.

    Raises:
        AudioError: like :func:`read_mono`, for a clip that cannot be used.
    """
    samples, rate = read_mono(clip)
    return Waveform(torch.from_numpy(samples), rate)


def frames_of(samples: int, sampling_rate: int, frames_per_second: float) -> int:
    """Return the number of code frames that the codec makes of a waveform.

    The semantic branch determines it. The waveform is resampled to the codec's rate, then to the semantic rate; a frame
    is counted as soon as its first window is complete.
    """
    at_codec_rate = -(-samples * CODEC_SAMPLE_RATE // sampling_rate)
    at_semantic_rate = -(-at_codec_rate * SEMANTIC_SAMPLE_RATE // CODEC_SAMPLE_RATE)
    first_window = SEMANTIC_WINDOW_SAMPLES - SEMANTIC_PADDING_SAMPLES
    return math.floor((at_semantic_rate - first_window) * frames_per_second / SEMANTIC_SAMPLE_RATE) + 1
