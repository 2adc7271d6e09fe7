"""The delay pattern: codebook k is shifted right by k columns, so that the codebooks of a frame are predicted in order.

K = 3 codebooks, T = 3 frames, with the stream's bos and eos (T + K + 1 = 7 columns)::

    column      0    1    2    3    4    5    6
    k = 0      bos   a1   a2   a3  eos  eos  eos
    k = 1      bos  bos   b1   b2   b3  eos  eos
    k = 2      bos  bos  bos   c1   c2   c3  eos

Source: MusicGen (arXiv:2306.05284, figure 1 "delay") as used by Higgs Audio v2.
"""

import torch
from torch import Tensor

from boson_multimodal.constants import IGNORE_INDEX


def apply_delay_pattern(codes_KT: Tensor, bos_id: int, eos_id: int) -> Tensor:
    """Shift codebook k right by k columns. Fill the columns before it with ``bos_id``, after it with ``eos_id``.

    Args:
        codes_KT: (K, T) codes. They may already have a bos and an eos column.

    Returns:
        (K, T + K - 1) delayed codes.
    """
    num_codebooks, frames = codes_KT.shape
    codebook = torch.arange(num_codebooks, device=codes_KT.device)[:, None]
    source = torch.arange(frames + num_codebooks - 1, device=codes_KT.device)[None, :] - codebook
    delayed = codes_KT.gather(1, source.clamp(0, max(frames - 1, 0)))
    return delayed.masked_fill(source < 0, bos_id).masked_fill(source >= frames, eos_id)


def revert_delay_pattern(delayed_KC: Tensor) -> Tensor:
    """Undo :func:`apply_delay_pattern`: convert (K, T + K - 1) delayed codes to (K, T) codes."""
    num_codebooks, columns = delayed_KC.shape
    frames = columns - num_codebooks + 1
    if frames < 0:
        raise ValueError(f"{columns} columns are too few for {num_codebooks} delayed codebooks")
    codebook = torch.arange(num_codebooks, device=delayed_KC.device)[:, None]
    return delayed_KC.gather(1, torch.arange(frames, device=delayed_KC.device)[None, :] + codebook)


def build_audio_columns(codes_KT: Tensor, bos_id: int, eos_id: int, use_delay_pattern: bool) -> Tensor:
    """Return the input columns of a clip: ``[bos, codes, eos]`` in each codebook, delayed if the model uses the delay.

    Args:
        codes_KT: (K, T) codes from the codec.

    Returns:
        (K, C) input ids, C = T + K + 1 with the delay pattern and T + 2 without.
    """
    num_codebooks = codes_KT.shape[0]
    bos = codes_KT.new_full((num_codebooks, 1), bos_id)
    eos = codes_KT.new_full((num_codebooks, 1), eos_id)
    stream = torch.cat([bos, codes_KT, eos], dim=1)
    return apply_delay_pattern(stream, bos_id, eos_id) if use_delay_pattern else stream


def build_audio_labels(codes_KT: Tensor, eos_id: int, use_delay_pattern: bool) -> Tensor:
    """Return the labels of a trained clip, aligned with :func:`build_audio_columns`.

    Codebook k has T + 1 labels: columns 0..k have none, then follow the T codes and one eos, which teaches the model to
    stop. The remaining columns have none.

    Returns:
        (K, C) labels, ``IGNORE_INDEX`` for columns without a label.
    """
    num_codebooks = codes_KT.shape[0]
    ignored = codes_KT.new_full((num_codebooks, 1), IGNORE_INDEX)
    eos = codes_KT.new_full((num_codebooks, 1), eos_id)
    stream = torch.cat([ignored, codes_KT, eos], dim=1)
    return apply_delay_pattern(stream, IGNORE_INDEX, IGNORE_INDEX) if use_delay_pattern else stream


def columns_of(frames: int, num_codebooks: int, use_delay_pattern: bool) -> int:
    """Return the number of columns C of a clip with ``frames`` code frames."""
    return frames + num_codebooks + 1 if use_delay_pattern else frames + 2
