"""The delay pattern: codebook k is shifted right by k columns, so that the codebooks of a frame are predicted in order.

K = 3 codebooks, T = 3 frames, with the stream's bos and eos (T + K + 1 = 7 columns)::

    column      0    1    2    3    4    5    6
    k = 0      bos   a1   a2   a3  eos  eos  eos
    k = 1      bos  bos   b1   b2   b3  eos  eos
    k = 2      bos  bos  bos   c1   c2   c3  eos

Source: MusicGen (arXiv:2306.05284, figure 1 "delay") as used by Higgs Audio v2.

The functions take the codes of one clip, (K, T), or those of several clips side by side, (K, sum of T), with the frames
of each. Then their results lie side by side too. A batch takes as many tensor operations as a clip.
"""

from typing import TypeVar

import torch
from torch import Tensor

from boson_multimodal.constants import IGNORE_INDEX

Count = TypeVar("Count", int, Tensor)


def apply_delay_pattern(codes_KT: Tensor, bos_id: int, eos_id: int, frames: Tensor | None = None) -> Tensor:
    """Shift codebook k right by k columns. Fill the columns before it with ``bos_id``, after it with ``eos_id``.

    Args:
        codes_KT: (K, T) codes. They may already have a bos and an eos column.
        frames: (clips,) number of frames of each clip, for several clips side by side.

    Returns:
        (K, T + K - 1) delayed codes; (K, T + clips * (K - 1)) for several clips.
    """
    device, (num_codebooks, total_frames) = codes_KT.device, codes_KT.shape
    frames = _one_clip(codes_KT) if frames is None else frames
    added = num_codebooks - 1  # columns of a clip beyond its frames
    delayed = codes_KT.new_full((num_codebooks, total_frames + added * frames.numel()), eos_id)

    # The first K - 1 columns of a clip: bos below the diagonal of the drawing, eos above it where the clip is short.
    codebook_K1, early = torch.arange(num_codebooks, device=device)[:, None], torch.arange(added, device=device)
    beginning = torch.where(early < codebook_K1, bos_id, eos_id).to(codes_KT.dtype)
    first_column = frames.cumsum(0) - frames + added * torch.arange(frames.numel(), device=device)
    delayed[:, first_column[:, None] + early] = beginning[:, None, :]

    # Then the codes, over the eos where the clip is long enough.
    column_T = torch.arange(total_frames, device=device) + added * _clip_of_frame(frames)
    return delayed.scatter_(1, column_T + codebook_K1, codes_KT)


def revert_delay_pattern(delayed_KC: Tensor) -> Tensor:
    """Undo :func:`apply_delay_pattern`: convert (K, T + K - 1) delayed codes to (K, T) codes."""
    num_codebooks, columns = delayed_KC.shape
    frames = columns - num_codebooks + 1
    if frames < 0:
        raise ValueError(f"{columns} columns are too few for {num_codebooks} delayed codebooks")
    codebook = torch.arange(num_codebooks, device=delayed_KC.device)[:, None]
    return delayed_KC.gather(1, torch.arange(frames, device=delayed_KC.device)[None, :] + codebook)


def build_audio_columns(
    codes_KT: Tensor, bos_id: int, eos_id: int, use_delay_pattern: bool, frames: Tensor | None = None
) -> Tensor:
    """Return the input columns of a clip: ``[bos, codes, eos]`` in each codebook, delayed if the model uses the delay.

    Args:
        codes_KT: (K, T) codes from the codec.
        frames: (clips,) number of frames of each clip, for several clips side by side.

    Returns:
        (K, C) input ids, C = T + K + 1 with the delay pattern and T + 2 without; for several clips the sum of these.
    """
    frames = _one_clip(codes_KT) if frames is None else frames
    streams = _streams(codes_KT, bos_id, eos_id, frames)
    return apply_delay_pattern(streams, bos_id, eos_id, frames + 2) if use_delay_pattern else streams


def build_audio_labels(codes_KT: Tensor, eos_id: int, use_delay_pattern: bool, frames: Tensor | None = None) -> Tensor:
    """Return the labels of a trained clip, aligned with :func:`build_audio_columns`.

    Codebook k has T + 1 labels: columns 0..k have none, then follow the T codes and one eos, which teaches the model to
    stop. The remaining columns have none.

    Args:
        codes_KT, frames: see :func:`build_audio_columns`.

    Returns:
        (K, C) labels, ``IGNORE_INDEX`` for columns without a label.
    """
    frames = _one_clip(codes_KT) if frames is None else frames
    streams = _streams(codes_KT, IGNORE_INDEX, eos_id, frames)
    return apply_delay_pattern(streams, IGNORE_INDEX, IGNORE_INDEX, frames + 2) if use_delay_pattern else streams


def columns_of(frames: Count, num_codebooks: int, use_delay_pattern: bool) -> Count:
    """Return the number of columns C of a clip with ``frames`` code frames, or of each of several clips."""
    return frames + num_codebooks + 1 if use_delay_pattern else frames + 2


def _one_clip(codes_KT: Tensor) -> Tensor:
    return torch.tensor([codes_KT.shape[1]], device=codes_KT.device)


def _clip_of_frame(frames: Tensor) -> Tensor:
    """Return the number of the clip of each frame: 2 and 3 frames give 0 0 1 1 1."""
    return torch.arange(frames.numel(), device=frames.device).repeat_interleave(frames)


def _streams(codes_KT: Tensor, before: int, after: int, frames: Tensor) -> Tensor:
    """Put a column before and a column after each clip: (K, T + 2 * clips)."""
    num_codebooks, total_frames = codes_KT.shape
    streams = codes_KT.new_full((num_codebooks, total_frames + 2 * frames.numel()), after)
    streams[:, (frames + 2).cumsum(0) - (frames + 2)] = before
    column_T = 1 + torch.arange(total_frames, device=codes_KT.device) + 2 * _clip_of_frame(frames)
    return streams.scatter_(1, column_T.expand(num_codebooks, -1), codes_KT)
