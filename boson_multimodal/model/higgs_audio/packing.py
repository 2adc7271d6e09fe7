"""One row for a batch: where each valid position of a padded batch lies once padding is dropped and audio expanded.

Two orders of the N valid positions are in use:

- *sample order*: sample after sample, as attention needs it;
- *routed order*: text positions first, then reference (audio-in) columns, then target (audio-out) columns, so that the
  norms and FFNs of text and of audio each take one contiguous slice. A reference that is given as features of the
  audio tower takes the text FFN, so its positions belong to the text slice.

Each slice is in sample order. Everything here is index arithmetic on token ids. Given ids on the CPU it costs the
accelerator no synchronisation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from boson_multimodal.constants import IGNORE_INDEX

PADDED_LENGTH_MULTIPLE = 8
"""Padded outputs are as long as the longest sample, rounded up to this (as the original rounds them)."""


@dataclass(frozen=True)
class PackedBatch:
    """Index tensors of one batch; B samples, N valid positions after expansion.

    Attributes:
        input_ids_N: token ids in sample order; an audio slot's id is repeated for each of its columns.
        label_ids_N: text labels in sample order, ``IGNORE_INDEX`` at audio columns; None without labels.
        sample_N: the sample of each position.
        position_ids_N: positions within each sample, in sample order; they count on from what a cache holds.
        is_feature_N: whether a position holds a feature of the audio tower.
        sample_lengths, text_lengths: positions of each sample, and those of them in the text slice; B entries each.
        sample_from_routed: ``x_routed[sample_from_routed]`` is x in sample order.
        routed_from_sample: the inverse.
        num_text, num_audio_in, num_audio_out: sizes of the three slices of the routed order.
        padded_from_sample: flat index into the (B, S) padded outputs of each position in sample order.
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
        """Spread values in sample order, (N, ...), over the padded grid, (B, S, ...)."""
        batch, length = self.padded_shape
        flat = values_N.new_full((batch * length, *values_N.shape[1:]), fill)
        flat[self.padded_from_sample.to(flat.device)] = values_N
        return flat.view(batch, length, *values_N.shape[1:])


def segment_lengths(total_columns: int, starts: Tensor) -> Tensor:
    """Columns of each audio segment, from where each begins in the concatenation of all."""
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
    """Drop padding, expand audio slots, and lay out both orders.

    Args:
        input_ids: (B, S0) token ids with one id per audio slot.
        attention_mask: (B, S0), 0 at padding; None means no padding.
        audio_in_lengths, audio_out_lengths: columns of each reference and of each target segment, in order of
            appearance (row by row).
        label_ids: (B, S0) text labels aligned with ``input_ids``.
        feature_lengths: positions of each reference that is given as features; where both features and codes are
            given, a slot holds its features first, then its codes.
        past_lengths: positions of each sample that a cache holds already.

    Raises:
        ValueError: if the slots in ``input_ids`` and the segments given differ in number.
    """
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    ids = input_ids[valid]
    is_in, is_out = ids == audio_in_token_id, ids == audio_out_token_id
    features = torch.zeros_like(ids)
    columns = torch.ones_like(ids)
    if feature_lengths is not None:
        features[is_in] = _slot_columns(is_in, feature_lengths, "features", "reference (<|AUDIO|>)")
        columns[is_in] = features[is_in]
    if feature_lengths is None or audio_in_lengths.numel():
        codes = _slot_columns(is_in, audio_in_lengths, "code columns", "reference (<|AUDIO|>)")
        columns[is_in] = features[is_in] + codes
    columns[is_out] = _slot_columns(is_out, audio_out_lengths, "code columns", "target (<|AUDIO_OUT|>)")

    sample_of_slot = torch.arange(input_ids.shape[0], device=ids.device)[:, None].expand_as(input_ids)[valid]
    slot_N = torch.arange(ids.shape[0], device=ids.device).repeat_interleave(columns)
    ids_N, sample_N = ids[slot_N], sample_of_slot[slot_N]
    lengths = torch.bincount(sample_N, minlength=input_ids.shape[0])
    row_N = torch.arange(ids_N.shape[0], device=ids.device)
    new_position_N = row_N - (lengths.cumsum(0) - lengths)[sample_N]
    is_feature_N = row_N - (columns.cumsum(0) - columns)[slot_N] < features[slot_N]
    position_N = new_position_N
    if past_lengths is not None:
        position_N = new_position_N + torch.tensor(past_lengths, device=ids.device)[sample_N]

    labels_N = None
    if label_ids is not None:
        labels_N = label_ids[valid][slot_N]
        labels_N = labels_N.masked_fill((ids_N == audio_in_token_id) | (ids_N == audio_out_token_id), IGNORE_INDEX)

    group_N = ((ids_N == audio_in_token_id) & ~is_feature_N).long() + 2 * (ids_N == audio_out_token_id).long()
    routed_from_sample = torch.argsort(group_N, stable=True)
    sample_from_routed = torch.empty_like(routed_from_sample)
    sample_from_routed[routed_from_sample] = row_N
    num_text, num_in, num_out = torch.bincount(group_N, minlength=3).tolist()

    padded_shape, padded_from_sample = _padded_grid(lengths, sample_N, new_position_N)
    return PackedBatch(
        input_ids_N=ids_N,
        label_ids_N=labels_N,
        sample_N=sample_N,
        position_ids_N=position_N,
        is_feature_N=is_feature_N,
        sample_lengths=tuple(lengths.tolist()),
        text_lengths=tuple(torch.bincount(sample_N[group_N == 0], minlength=input_ids.shape[0]).tolist()),
        sample_from_routed=sample_from_routed,
        routed_from_sample=routed_from_sample,
        num_text=num_text,
        num_audio_in=num_in,
        num_audio_out=num_out,
        padded_from_sample=padded_from_sample,
        padded_shape=padded_shape,
    )


def _slot_columns(is_slot: Tensor, lengths: Tensor, what: str, where: str) -> Tensor:
    slots = int(is_slot.sum())
    if slots != lengths.numel():
        raise ValueError(f"the batch has {slots} {where} slots but {what} for {lengths.numel()} segments")
    return lengths.to(is_slot.device)


def _padded_grid(lengths: Tensor, sample_N: Tensor, position_N: Tensor) -> tuple[tuple[int, int], Tensor]:
    """Shape of the padded outputs and each position's flat index: pads on the right, but on the left for one sample."""
    longest = int(lengths.max()) if lengths.numel() else 0
    padded_length = -(-longest // PADDED_LENGTH_MULTIPLE) * PADDED_LENGTH_MULTIPLE
    left_pad = padded_length - longest if lengths.numel() == 1 else 0
    return (lengths.numel(), padded_length), sample_N * padded_length + position_N + left_pad
