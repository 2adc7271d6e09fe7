"""What the layers keep for the backward pass and need for a moment, in bytes for each position.

The layers are the plain ones of the model with PEFT's adapters, under autocast.

One layer keeps, with D the width, Q and K the widths of queries and keys, I that of the FFN, r the rank, and 2 bytes
for each number in bf16::

    two norms         4 D each          an fp32 copy of the input
    attention         2 D               the normed input, for the adapters
                      2 (2 Q + 2 K)     queries, keys, values, output
    FFN               2 D               the normed input, for the adapters
                      2 (3 I + I)       gate, its SiLU, up; their product, for the adapter of down
    adapters          2 r               the output of the first factor of each

Dropout keeps a copy and a mask of each adapter's own input. DoRA keeps each module's output twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from lora_config import HiggsAudioLoRATrainingConfig

ROUNDING = 1.015
"""The allocator's blocks over the tensors in them."""


@dataclass(frozen=True)
class LayerMemory:
    """Bytes of the layers for each position.

    Attributes:
        text, audio: what all layers keep for a text position and for an audio position.
        text_top, audio_top: what one layer needs for a moment.
        per_pair: what all layers keep for each pair of positions of one sample.
        whole: what one layer needs for a moment, regardless of positions.
    """

    text: float
    audio: float
    text_top: float
    audio_top: float
    per_pair: float = 0.0
    whole: float = 0.0

    def of(self, lengths: Sequence[int], audio_positions: int) -> tuple[int, int]:
        """Return the bytes that are kept, and those that are needed for a moment."""
        text = sum(lengths) - audio_positions
        pairs = sum(length * length for length in lengths)
        kept = text * self.text + audio_positions * self.audio + pairs * self.per_pair
        top = text * self.text_top + audio_positions * self.audio_top + self.whole
        return round(kept * ROUNDING), round(top)


def layer_memory(
    config: HiggsAudioConfig, lora: HiggsAudioLoRATrainingConfig, dtype: torch.dtype, recompute: str, quantise: str
) -> LayerMemory:
    """Return the memory of the layers of a model with an adapter."""
    layers = config.text_config.num_hidden_layers
    widths = config.text_config.intermediate_size, config.audio_ffn_intermediate_size
    kept = [plain_layer(config, lora, width, group, dtype) for width, group in zip(widths, GROUPS, strict=True)]
    momentary = [2 * (width + config.hidden_size) * dtype.itemsize for width in widths]
    whole = 0.0
    if lora.use_dora:  # the norms of the merged weights: a copy of the weight, the product of the factors, their sum
        whole = 16.0 * config.hidden_size * max(widths)
    if recompute == "none":
        return LayerMemory(layers * kept[0], layers * kept[1], *momentary, whole=whole)
    inputs = layers * config.hidden_size * dtype.itemsize
    tops = [one + moment for one, moment in zip(kept, momentary, strict=True)]
    return LayerMemory(inputs, inputs, *tops, whole=whole)


GROUPS = ("text_mlp", "audio_mlp")


def plain_layer(
    config: HiggsAudioConfig, lora: HiggsAudioLoRATrainingConfig, width: int, group: str, dtype: torch.dtype
) -> float:
    """Return the bytes that one plain layer keeps for a position whose FFN has this width and group of adapters."""
    text, size, hidden = config.text_config, dtype.itemsize, config.hidden_size
    query, key = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    kept = 8.0 * hidden + size * (2 * query + 2 * key + 3 * width) + 4 * text.num_attention_heads
    inputs, shared, outputs, modules = 0, 0, 0, 0
    if "attention" in lora.lora_targets:
        inputs, shared, outputs, modules = 3 * hidden + query, hidden, query + 2 * key + hidden, 4
    if group in lora.lora_targets:
        inputs, shared = inputs + 2 * hidden + width, shared + hidden + width
        outputs, modules = outputs + 2 * width + hidden, modules + 3
    kept += size * modules * lora.lora_rank
    kept += (size + 1) * inputs if lora.lora_dropout else size * shared
    return kept + (2 * size * outputs if lora.use_dora else 0)
