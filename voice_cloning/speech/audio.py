"""Join pieces of speech to one wave."""

from collections.abc import Sequence

import torch
from torch import Tensor

FADE_SECONDS = 0.010
PAUSE_SECONDS = 0.150


def join_pieces(pieces: Sequence[Tensor], sampling_rate: int) -> Tensor:
    """Concatenate (samples,) waves with a pause of ``PAUSE_SECONDS`` between them.

    A wave that does not start and end at zero would click, so both sides of a pause get a raised-cosine fade, which is
    shorter than any speech sound. Pieces are not trimmed and do not overlap, because the words may reach to their ends.
    A single piece does not change, nor do the start and the end of the whole wave.
    """
    parts = []
    for index, piece in enumerate(pieces):
        if index > 0:
            parts.append(pause(sampling_rate))
            piece = faded_in(piece, sampling_rate)
        parts.append(faded_out(piece, sampling_rate) if index < len(pieces) - 1 else piece)
    return torch.cat(parts) if parts else torch.zeros(0)


def pause(sampling_rate: int) -> Tensor:
    """Return the silence between two pieces."""
    return torch.zeros(round(PAUSE_SECONDS * sampling_rate))


def faded_in(wave: Tensor, sampling_rate: int) -> Tensor:
    """Return a copy of a (samples,) wave that rises from zero within ``FADE_SECONDS``."""
    length = min(round(FADE_SECONDS * sampling_rate), wave.numel())
    return torch.cat([wave[:length] * rising(length), wave[length:]])


def faded_out(wave: Tensor, sampling_rate: int) -> Tensor:
    """Return a copy of a (samples,) wave that falls to zero within ``FADE_SECONDS``."""
    length = min(round(FADE_SECONDS * sampling_rate), wave.numel())
    start = wave.numel() - length
    return torch.cat([wave[:start], wave[start:] * rising(length).flip(0)])


def rising(length: int) -> Tensor:
    """Return the (length,) raised cosine of a fade from 0 to 1."""
    return 0.5 - 0.5 * torch.cos(torch.pi * torch.arange(length) / length)
