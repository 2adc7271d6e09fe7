"""What the layers of a training step keep for the backward pass, and what one layer needs for a moment, in bytes.

With D the width of the model, Q and K the widths of all queries and of all keys, I the width of an FFN, r the rank of
the adapter, and s bytes for a number (2 in bf16), a layer keeps for each position

====================  =======================  ====================================================================
part                  fused layers             plain layers with PEFT
====================  =======================  ====================================================================
inputs of the norms   2 s D                    8 D, copies in fp32
inputs of adapters    none: computed again     s (2 D + I), if the adapter is on both attention and FFN
attention             s (2 Q + 2 K)            the same; and 4 bytes for each head
FFN                   3 s I (gate, up, h)      the same (gate, its SiLU, up)
outputs of A factors  7 s r                    the same
====================  =======================  ====================================================================

``--recompute ffn`` keeps nothing of the row "FFN", ``layer`` only the input of the layer, s D. The fused layers compute
the FFN of the last layer for the rows that predict a label, and no others. DoRA and dropout take the plain layers: DoRA
keeps the output of each module twice more, dropout a copy and a mask of each adapter's own input.
"""

from dataclasses import dataclass

import torch

from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from lora_config import HiggsAudioLoRATrainingConfig

BLOCKS = 1.012
"""The allocator's blocks over the tensors in them, and small tensors that are not counted."""
DORA_NORM = 16
"""Bytes that DoRA needs for a moment for each weight of a matrix, to compute the norms of the merged weight."""


@dataclass(frozen=True)
class BatchShape:
    """What the memory of a micro-batch depends on.

    Attributes:
        lengths: positions of each sample.
        audio_positions: how many of all positions are audio columns.
        text_rows, audio_rows: positions that predict a text label, and those that predict an audio label.
    """

    lengths: tuple[int, ...]
    audio_positions: int
    text_rows: int
    audio_rows: int

    @classmethod
    def full_of(cls, positions: int, longest: int) -> "BatchShape":
        """Return the shape of so many positions that takes most memory, with samples of at most ``longest``."""
        whole, rest = divmod(positions, max(1, longest))
        return cls((longest,) * whole + ((rest,) if rest else ()), positions, positions, positions)

    @property
    def positions(self) -> int:
        """Positions of all samples."""
        return sum(self.lengths)

    @property
    def label_rows(self) -> int:
        """Positions that predict a label, at most."""
        return min(self.positions, self.text_rows + self.audio_rows)


@dataclass(frozen=True)
class Activations:
    """Bytes of the layers in a step.

    Attributes:
        kept: at the end of the forward pass.
        kept_below: what is left of it when the backward pass has reached the layer that needs most for a moment.
        momentary: what this layer needs then.
        evaluation: the most that a forward pass without gradients needs.
    """

    kept: int
    kept_below: int
    momentary: int
    evaluation: int


def takes_fused_layers(config: HiggsAudioConfig, lora: HiggsAudioLoRATrainingConfig) -> bool:
    """Return whether a model with such an adapter gets the fused layers (see ``install_fused_layers``)."""
    text = config.text_config
    has_form = not (text.attention_bias or text.mlp_bias) and text.hidden_act == "silu"
    all_dual = len(config.audio_dual_ffn_layers) == text.num_hidden_layers
    return has_form and all_dual and not lora.use_dora and not lora.lora_dropout


def activations(
    config: HiggsAudioConfig,
    lora: HiggsAudioLoRATrainingConfig,
    dtype: torch.dtype,
    recompute: str,
    shape: BatchShape,
) -> Activations:
    """Return what the layers take in a step. The plain layers know two levels of recompute: ``ffn`` is ``layer``."""
    layers = FusedLayerBytes if takes_fused_layers(config, lora) else PlainLayerBytes
    return layers(config, lora, dtype, shape).step(recompute)


class LayerBytes:
    """Widths of a model, and what both kinds of layers have in common."""

    def __init__(
        self, config: HiggsAudioConfig, lora: HiggsAudioLoRATrainingConfig, dtype: torch.dtype, shape: BatchShape
    ) -> None:
        text = config.text_config
        self.config, self.lora, self.shape, self.size = config, lora, shape, dtype.itemsize
        self.layers, self.hidden = text.num_hidden_layers, config.hidden_size
        self.query, self.key = (heads * text.head_dim for heads in (text.num_attention_heads, text.num_key_value_heads))
        self.positions, self.sums = shape.positions, 4 * text.num_attention_heads
        ffns = (text.intermediate_size, config.audio_ffn_intermediate_size)
        text_positions = shape.positions - shape.audio_positions
        self.ffn_numbers = text_positions * ffns[0] + shape.audio_positions * ffns[1]
        """Positions times the width of their FFN."""
        self.larger_ffn = max(text_positions * ffns[0], shape.audio_positions * ffns[1])
        """The same of the text rows or of the audio rows alone: the two run one after the other."""
        self.widest = max(ffns)
        self.angles = 2 * self.size * text.head_dim * shape.positions

    def ranks(self, group: str, modules: int) -> int:
        """Return the sum of ranks of a group's adapters in a layer."""
        return modules * self.lora.lora_rank if group in self.lora.lora_targets else 0

    def blocks(self, kept: float, below: float, momentary: float, forward: float) -> Activations:
        """Return bytes of tensors as bytes of the allocator's blocks."""
        kept, below = (count + self.angles for count in (kept, below))
        return Activations(*(round(BLOCKS * count) for count in (kept, below, momentary, forward)))

    @property
    def stream(self) -> int:
        """Bytes of the hidden states of all positions."""
        return self.size * self.hidden * self.positions


class FusedLayerBytes(LayerBytes):
    """Memory of ``fused_layers.py``."""

    def step(self, recompute: str) -> Activations:
        """Return what all layers take."""
        attention = self.stream + self.positions * (
            self.size * (2 * self.query + 2 * self.key + self.ranks("attention", 4)) + self.sums + 4
        )
        ranks = max(self.ranks("text_mlp", 3), self.ranks("audio_mlp", 3))
        ffn = self.stream + self.positions * (self.size * ranks + 4)
        gate_up_h, one = 3 * self.size * self.ffn_numbers, self.size * self.larger_ffn
        gradients = 2 * self.stream  # of the output and of the input
        if recompute == "layer":
            kept = below = self.layers * self.stream
            momentary = attention - self.stream + ffn + gate_up_h + 4 * one + gradients
        else:
            ffn += gate_up_h if recompute == "none" else 0
            again = 4 if recompute == "none" else 6
            rows = self.shape.label_rows / max(1, self.positions)  # only these take the FFN of the last layer
            below = (self.layers - 1) * (attention + ffn)
            kept = below + attention + rows * ffn
            momentary = max(again * one + gradients, kept - below + rows * (again * one + gradients))
        forward = gate_up_h + 4 * self.stream
        return self.blocks(kept, below, momentary, forward)


class PlainLayerBytes(LayerBytes):
    """Memory of the model's own layers with PEFT's adapters, under autocast."""

    def step(self, recompute: str) -> Activations:
        """Return what all layers take."""
        norms = DORA_NORM * self.hidden * self.widest if self.lora.use_dora else 0
        one = 2 * self.size * (self.larger_ffn + self.hidden * self.positions) + norms
        kept, forward = self._kept_by_layer(), 5 * self.size * self.larger_ffn + 4 * self.stream + norms
        if recompute == "none":
            return self.blocks(self.layers * kept, self.layers * kept, one, forward)
        inputs = self.layers * self.stream
        return self.blocks(inputs, inputs, kept + one, forward)

    def _kept_by_layer(self) -> float:
        """Return the bytes that one layer keeps."""
        ffn, hidden = self.ffn_numbers / max(1, self.positions), self.hidden
        kept = 8.0 * hidden + self.size * (2 * self.query + 2 * self.key + 3 * ffn) + self.sums
        inputs = shared = outputs = 0.0
        if "attention" in self.lora.lora_targets:
            inputs, shared = 3 * hidden + self.query, hidden
            outputs = self.query + 2 * self.key + hidden
        if share := self._share_of_adapted_ffns():
            inputs, shared = inputs + share * (2 * hidden + ffn), shared + share * (hidden + ffn)
            outputs += share * (2 * ffn + hidden)
        kept += self.size * (self.ranks("attention", 4) + 3 * share * self.lora.lora_rank)
        kept += (self.size + 1) * inputs if self.lora.lora_dropout else self.size * shared
        kept += 2 * self.size * outputs if self.lora.use_dora else 0
        return kept * self.positions

    def _share_of_adapted_ffns(self) -> float:
        """Return the part of the positions whose FFN has adapters."""
        audio = self.shape.audio_positions / max(1, self.positions)
        shares = {"text_mlp": 1 - audio, "audio_mlp": audio}
        return sum(share for group, share in shares.items() if group in self.lora.lora_targets)
