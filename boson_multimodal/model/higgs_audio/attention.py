"""Causal grouped-query attention of each sample in a packed row, with or without a key-value cache."""

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from boson_multimodal.device import turn_off_cudnn_attention
from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.key_value_cache import KeyValueCache
from boson_multimodal.model.higgs_audio.transfer import to_device

turn_off_cudnn_attention()  # here, so that it holds for whoever uses the model, on a device chosen in any way

VARLEN_GROUPS_HEADS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Whether the varlen kernel supports grouped-query attention. In torch 2.11 it does not."""


MASK_ALIGNMENT = 16
"""The rows of a mask begin at multiples of so many numbers; otherwise SDPA on CUDA would copy it in each layer."""


@dataclass(frozen=True)
class Sequences:
    """The samples in N rows of hidden states. They follow one another, and each row attends to its own sample only.

    Attributes:
        lengths: the number of rows of each sample.
        bounds: (B + 1,) int32, the first row of each sample, and N.
        cos_Nd, sin_Nd: cosine and sine of the rotary angles of each row's position.
        past_lengths: the number of cached positions of each sample before these rows; None without a cache.
        cache_rows_N: the rows of the cache for the new keys and values.
        held_mask: with a cache, one new row per sample and samples of different lengths, what is added to the scores of
            the longest sample's positions, (B, 1, 1, positions): 0, or -inf where another sample has none. Else None.
    """

    lengths: tuple[int, ...]
    bounds: Tensor
    cos_Nd: Tensor
    sin_Nd: Tensor
    past_lengths: tuple[int, ...] | None = None
    cache_rows_N: Tensor | None = None
    held_mask: Tensor | None = None


def build_sequences(
    lengths: tuple[int, ...], cos_Nd: Tensor, sin_Nd: Tensor, past: tuple[int, ...] | None, rows_N: Tensor | None
) -> Sequences:
    """Build :class:`Sequences` on the device of the angles."""
    bounds = F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
    rows = None if rows_N is None else to_device(rows_N, cos_Nd.device)
    mask = _held_mask(lengths, past, cos_Nd)
    return Sequences(lengths, to_device(bounds, cos_Nd.device), cos_Nd, sin_Nd, past, rows, mask)


def _held_mask(lengths: tuple[int, ...], past: tuple[int, ...] | None, cos_Nd: Tensor) -> Tensor | None:
    """The mask of :class:`Sequences`, made once for all layers, of the type of the angles."""
    if past is None or any(length != 1 for length in lengths) or min(past) == max(past):
        return None
    longest = max(past) + 1
    width = -(-longest // MASK_ALIGNMENT) * MASK_ALIGNMENT
    is_beyond = torch.arange(width) > torch.tensor(past)[:, None, None, None]
    mask = torch.zeros(is_beyond.shape, dtype=cos_Nd.dtype).masked_fill(is_beyond, -torch.inf)
    return to_device(mask, cos_Nd.device)[..., :longest]


def attend(query: Tensor, key: Tensor, value: Tensor, sequences: Sequences) -> Tensor:
    """Compute causal attention within each sample. (N, heads, d) in sample order -> (N, heads, d).

    On CUDA in half precision one varlen kernel computes all samples. Otherwise SDPA runs once per sample. A single call
    with a block mask would also compute and discard the pairs of positions of different samples.
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        bounds, longest = sequences.bounds, max(sequences.lengths)
        groups = {"enable_gqa": True}
        if not VARLEN_GROUPS_HEADS:
            groups = {}
            key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
        return varlen_attn(query, key, value, bounds, bounds, longest, longest, window_size=(-1, 0), **groups)
    outputs = []
    for q, k, v in zip(*(x.split(sequences.lengths) for x in (query, key, value)), strict=True):
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        outputs.append(attended.squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


def attend_to_cache(query: Tensor, keys: Tensor, values: Tensor, sequences: Sequences) -> Tensor:
    """Like :func:`attend`, but attend to all cached positions too. Keys and values are (B, capacity, heads, d)."""
    past = sequences.past_lengths
    if all(length == 1 for length in sequences.lengths):
        longest, mask = max(past) + 1, sequences.held_mask
        k, v = keys[:, :longest].transpose(1, 2), values[:, :longest].transpose(1, 2)
        if query.is_cuda and mask is not None:
            # No fused kernel of torch 2.11 takes a mask and groups of heads. With one row per sample, the heads of a
            # group can be queries of one head, and the keys need not be repeated either.
            q = query.unflatten(1, (k.shape[1], -1))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).flatten(1, 2)
        q = query.unsqueeze(2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).squeeze(2)
    outputs = []
    for sample, q in enumerate(query.split(sequences.lengths)):
        new, held = q.shape[0], past[sample] + q.shape[0]
        mask = torch.ones(new, held, dtype=torch.bool, device=query.device).tril(past[sample])
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, keys[sample, :held], values[sample, :held]))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        outputs.append(attended.squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


class HiggsAudioAttention(nn.Module):
    """Grouped-query attention with rotary positions. Text and audio share it."""

    def __init__(self, config: HiggsAudioConfig, layer_index: int) -> None:
        super().__init__()
        text = config.text_config
        self.layer_index = layer_index
        self.head_dim = text.head_dim
        self.q_proj = nn.Linear(text.hidden_size, text.num_attention_heads * text.head_dim, bias=text.attention_bias)
        self.k_proj = nn.Linear(text.hidden_size, text.num_key_value_heads * text.head_dim, bias=text.attention_bias)
        self.v_proj = nn.Linear(text.hidden_size, text.num_key_value_heads * text.head_dim, bias=text.attention_bias)
        self.o_proj = nn.Linear(text.num_attention_heads * text.head_dim, text.hidden_size, bias=text.attention_bias)

    def forward(self, hidden_ND: Tensor, sequences: Sequences, cache: KeyValueCache | None) -> Tensor:
        """(N, D) in sample order -> (N, D) in sample order."""
        query, key, value = (
            projection(hidden_ND).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, sequences.cos_Nd, sequences.sin_Nd)
        if cache is not None:
            keys, values = cache.write(self.layer_index, sequences.cache_rows_N, key, value)
        if cache is not None and any(sequences.past_lengths):
            attended = attend_to_cache(query, keys, values, sequences)
        else:
            attended = attend(query, key, value, sequences)
        return self.o_proj(attended.flatten(-2))
