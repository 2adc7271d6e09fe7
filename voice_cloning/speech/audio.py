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
    fade = round(FADE_SECONDS * sampling_rate)
    pause = torch.zeros(round(PAUSE_SECONDS * sampling_rate))
    parts = []
    for index, piece in enumerate(pieces):
        piece = piece.clone()
        length = min(fade, piece.numel())
        rising = 0.5 - 0.5 * torch.cos(torch.pi * torch.arange(length) / length)
        if index > 0:
            parts.append(pause)
            piece[:length] *= rising
        if index < len(pieces) - 1:
            piece[piece.numel() - length :] *= rising.flip(0)
        parts.append(piece)
    return torch.cat(parts) if parts else torch.zeros(0)
