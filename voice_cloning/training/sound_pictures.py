"""Make of a waveform the picture that a reporter shows: its mel spectrogram."""

import io

import numpy as np
from torch import Tensor

from boson_multimodal.errors import InputError

MEL_BANDS = 80
FRAME_SECONDS, HOP_SECONDS = 0.04, 0.01
"""Length and distance of the frames of a spectrogram."""
SHOWN_DB = 80.0
"""Levels that are this much below the loudest of a picture are black."""
PIXELS_PER_BAND = 2
COLOURS = "magma"


def checked(tag: str, samples: Tensor) -> Tensor:
    """Return (samples,) as float32 on the CPU.

    Raises:
        InputError: naming the tag, if the shape is wrong or a sample is not finite.
    """
    samples = samples.detach().float().cpu()
    if samples.dim() != 1 or not samples.isfinite().all():
        state = "holds NaN or infinite samples" if samples.dim() == 1 else f"has the shape {tuple(samples.shape)}"
        raise InputError(f"sound {tag!r}: {state}; it must be (samples,) of finite numbers")
    return samples


def mel_picture(samples: Tensor, sampling_rate: int) -> np.ndarray:
    """Return the log-mel spectrogram of (samples,) as (height, width, 3) uint8: low frequencies at the bottom.

    A second is 100 pixels wide. The loudest point has the lightest colour. A sound without samples is one silent frame.
    """
    from matplotlib import colormaps  # slow to import, and needed only where sounds are reported
    from torchaudio.transforms import MelSpectrogram

    size = max(2, round(FRAME_SECONDS * sampling_rate))
    transform = MelSpectrogram(
        sampling_rate,
        n_fft=1 << (size - 1).bit_length(),
        win_length=size,
        hop_length=max(1, round(HOP_SECONDS * sampling_rate)),
        n_mels=MEL_BANDS,
        pad_mode="constant",  # the others need more samples than half a frame
    )
    samples = samples if len(samples) else samples.new_zeros(1)
    levels = transform(samples).clamp(min=1e-10).log10().mul(10.0).flip(0).numpy()
    shares = np.clip((levels - levels.max()) / SHOWN_DB + 1.0, 0.0, 1.0)
    pixels = (255 * colormaps[COLOURS](shares)[:, :, :3]).round().astype(np.uint8)
    return pixels.repeat(PIXELS_PER_BAND, axis=0)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode (height, width, 3) uint8 as a PNG file."""
    from matplotlib.image import imsave  # slow to import

    content = io.BytesIO()
    imsave(content, pixels, format="png")
    return content.getvalue()
