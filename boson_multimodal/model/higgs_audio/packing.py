"""Pack a padded batch into one row: drop the padding, expand audio slots, and compute the index of every position.

The N valid positions are used in two orders:

- *sample order*: one sample after the other. Attention needs this order.
- *routed order*: text positions first, then reference (audio-in) columns, then target (audio-out) columns. The norms
  and FFNs of text and of audio each take one contiguous slice of it. Features of the audio tower take the text FFN, so
  the positions of a reference that is given as features belong to the text slice.

Each slice is in sample order. This module only computes indices from token ids. If the ids are on the CPU, no
synchronisation with the accelerator is needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from boson_multimodal.constants import IGNORE_INDEX

PADDED_LENGTH_MULTIPLE = 8
"""The length of padded outputs is that of the longest sample, rounded up to a multiple of this (as in the original)."""


@dataclass(frozen=True)
class PackedBatch:
    """The index tensors of a batch with B samples and, after expansion, N valid positions.

    Attributes:
        input_ids_N: token ids in sample order; an audio slot's id is repeated for each of its columns.
        label_ids_N: text labels in sample order, ``IGNORE_INDEX`` at audio columns; None without labels.
        sample_N: the sample of each position.
        position_ids_N: position within its sample, in sample order. With a cache the first new position has the number
            of cached positions.
        is_feature_N: whether a position holds a feature of the audio tower.
        sample_lengths, text_lengths: the number of positions of each sample, and of those in the text slice; B each.
        sample_from_routed: ``x_routed[sample_from_routed]`` is x in sample order.
        routed_from_sample: the inverse.
        num_text, num_audio_in, num_audio_out: sizes of the three slices of the routed order.
        padded_from_sample: for each position in sample order, its flat index in the (B, S) padded outputs.
        padded_shape: (B, S).
    """

    input_ids_N: Tensor
    label_ids_N: Tensor | None
    sample_N: Tensor
    position_ids_N: Tensor
    is_feature_N: Tensor
    sample_lengths: tuple[int, ...]
    text_lengths: tuple[int, ...]
    sample_from_routed: Tensor
    routed_from_sample: Tensor
    num_text: int
    num_audio_in: int
    num_audio_out: int
    padded_from_sample: Tensor
    padded_shape: tuple[int, int]

    def pad(self, values_N: Tensor, fill: float) -> Tensor:
        """Copy values in sample order, (N, ...), to a padded tensor (B, S, ...)."""
        batch, length = self.padded_shape
        flat = values_N.new_full((batch * length, *values_N.shape[1:]), fill)
        flat[self.padded_from_sample.to(flat.device)] = values_N
        return flat.view(batch, length, *values_N.shape[1:])


def segment_lengths(total_columns: int, starts: Tensor) -> Tensor:
    """Return the number of columns of each audio segment. ``starts`` are the segments' first columns."""
    return torch.diff(starts, append=starts.new_tensor([total_columns]))


def pack_batch(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    audio_in_lengths: Tensor,
    audio_out_lengths: Tensor,
    label_ids: Tensor | None,
    audio_in_token_id: int,
    audio_out_token_id: int,
    feature_lengths: Tensor | None = None,
    past_lengths: tuple[int, ...] | None = None,
) -> PackedBatch:
    """Drop padding, expand audio slots, and compute the indices of both orders.

    Args:
        input_ids: (B, S0) token ids with one id per audio slot.
        attention_mask: (B, S0), 0 at padding; None means no padding.
        audio_in_lengths, audio_out_lengths: columns of each reference and target segment, in order (row by row).
        label_ids: (B, S0) text labels aligned with ``input_ids``.
        feature_lengths: positions of each reference's features. If a slot has features and codes, features come first.
        past_lengths: the number of positions of each sample in the cache.

    Raises:
        ValueError: if the number of slots in ``input_ids`` differs from the number of segments.
    """
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    ids = input_ids[valid]
    columns, features = _columns_per_id(
        ids == audio_in_token_id, ids == audio_out_token_id, audio_in_lengths, audio_out_lengths, feature_lengths
    )
    sample_of_slot = torch.arange(input_ids.shape[0], device=ids.device)[:, None].expand_as(input_ids)[valid]
    slot_N = torch.arange(ids.shape[0], device=ids.device).repeat_interleave(columns)
    ids_N, sample_N = ids[slot_N], sample_of_slot[slot_N]
    lengths = torch.bincount(sample_N, minlength=input_ids.shape[0])
    row_N = torch.arange(ids_N.shape[0], device=ids.device)
    new_position_N = row_N - (lengths.cumsum(0) - lengths)[sample_N]
    is_feature_N = row_N - (columns.cumsum(0) - columns)[slot_N] < features[slot_N]
    past_B = torch.zeros_like(lengths) if past_lengths is None else torch.tensor(past_lengths, device=ids.device)

    is_in_N, is_out_N = ids_N == audio_in_token_id, ids_N == audio_out_token_id
    labels_N = None if label_ids is None else label_ids[valid][slot_N].masked_fill(is_in_N | is_out_N, IGNORE_INDEX)
    slice_N = (is_in_N & ~is_feature_N).long() + 2 * is_out_N.long()
    routed_from_sample = torch.argsort(slice_N, stable=True)
    num_text, num_in, num_out = torch.bincount(slice_N, minlength=3).tolist()
    padded_shape, padded_from_sample = _padded_grid(lengths, sample_N, new_position_N)
    return PackedBatch(
        input_ids_N=ids_N,
        label_ids_N=labels_N,
        sample_N=sample_N,
        position_ids_N=new_position_N + past_B[sample_N],
        is_feature_N=is_feature_N,
        sample_lengths=tuple(lengths.tolist()),
        text_lengths=tuple(torch.bincount(sample_N[slice_N == 0], minlength=input_ids.shape[0]).tolist()),
        sample_from_routed=_inverse(routed_from_sample),
        routed_from_sample=routed_from_sample,
        num_text=num_text,
        num_audio_in=num_in,
        num_audio_out=num_out,
        padded_from_sample=padded_from_sample,
        padded_shape=padded_shape,
    )


def _columns_per_id(
    is_in: Tensor, is_out: Tensor, in_lengths: Tensor, out_lengths: Tensor, feature_lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return how many positions each token id takes, and how many of them hold features of the tower."""
    features = torch.zeros_like(is_in, dtype=torch.long)
    columns = torch.ones_like(features)
    if feature_lengths is not None:
        features[is_in] = _slot_columns(is_in, feature_lengths, "features", "reference (<|AUDIO|>)")
        columns[is_in] = features[is_in]
    if feature_lengths is None or in_lengths.numel():
        codes = _slot_columns(is_in, in_lengths, "code columns", "reference (<|AUDIO|>)")
        columns[is_in] = features[is_in] + codes
    columns[is_out] = _slot_columns(is_out, out_lengths, "code columns", "target (<|AUDIO_OUT|>)")
    return columns, features


def _inverse(permutation_N: Tensor) -> Tensor:
    """Return the inverse of a permutation."""
    inverse = torch.empty_like(permutation_N)
    inverse[permutation_N] = torch.arange(permutation_N.shape[0], device=permutation_N.device)
    return inverse


def _slot_columns(is_slot: Tensor, lengths: Tensor, what: str, where: str) -> Tensor:
    slots = int(is_slot.sum())
    if slots != lengths.numel():
        raise ValueError(f"the batch has {slots} {where} slots but {what} for {lengths.numel()} segments")
    return lengths.to(is_slot.device)


def _padded_grid(lengths: Tensor, sample_N: Tensor, position_N: Tensor) -> tuple[tuple[int, int], Tensor]:
    """Return the shape of the padded outputs and each position's flat index in them.

    Padding is on the right, but on the left for a batch of one sample.
    """
    longest = int(lengths.max()) if lengths.numel() else 0
    padded_length = -(-longest // PADDED_LENGTH_MULTIPLE) * PADDED_LENGTH_MULTIPLE
    left_pad = padded_length - longest if lengths.numel() == 1 else 0
    return (lengths.numel(), padded_length), sample_N * padded_length + position_N + left_pad
