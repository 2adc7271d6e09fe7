"""How much GPU memory a training step takes, part by part, before any weight is loaded.

All functions are pure. What autograd keeps for the backward pass is counted tensor by tensor
(``activation_memory.py``); tests compare the sums with torch's allocator at the released size. The memory of a step is

    lasting:     weights + adapter + gradients + AdamW's two moments + the copy from which a checkpoint is written
                 + workspace of the matrix products
    growing:     activations, which the forward pass collects layer by layer
    at the top:  the heads' logits, or what one layer computes for a moment, whichever is larger

The allocator takes more than this from the card, because free blocks between tensors do not always fit the next tensor
(``FRAGMENTATION``). The CUDA context lies outside of it (``gpu_cards.CONTEXT_BYTES``).
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.loss import LOGITS_PER_CHUNK
from lora_config import HiggsAudioLoRATrainingConfig, adapter_form
from voice_cloning.training.activation_memory import Activations, BatchShape, activations, takes_fused_layers
from voice_cloning.training.config import RECOMPUTE_LEVELS

FRAGMENTATION = 0.05
"""Reserved over allocated memory, at most, over steps of varied lengths: the margin of every decision."""
WORKSPACE_BYTES = 2 * 2**25
"""What the matrix products keep for themselves on a Hopper card; other cards take less."""
BUDGET_STEP = 64
"""``--max_tokens_per_batch auto`` is a multiple of this number of positions."""
FP32_LOGITS = 2
"""How often the logits of a chunk exist in fp32 at a time, besides once in the type of the computation. Once in each
they stay until the next chunk has its own."""
NF4_BYTES_PER_WEIGHT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""4 bits, one byte for a block of 64 weights, and one fp32 number for 256 of these bytes."""

RELEASED_TEXT = {
    "hidden_size": 3072,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
"""Backbone of the released model, without its number of layers."""
RELEASED_MODEL = HiggsAudioConfig(text_config={**RELEASED_TEXT, "num_hidden_layers": 28})
"""The released model, for those who have no checkpoint at hand."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of the parts of a training step at its peak.

    Attributes:
        weights, adapter, gradients, optimizer, copy, workspace: what lasts from step to step.
        activations: what the forward pass has kept for the backward pass.
        heads: logits of the loss; 0 if the peak is not there.
        layer: what one layer needs for a moment, with what it computes again; 0 if the peak is not there.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    copy: int
    workspace: int
    activations: int
    heads: int
    layer: int

    @property
    def lasting(self) -> int:
        """Bytes between two steps."""
        return self.weights + self.adapter + self.gradients + self.optimizer + self.copy + self.workspace

    @property
    def allocated(self) -> int:
        """The most bytes that tensors take at a time."""
        return self.lasting + self.activations + self.heads + self.layer

    @property
    def needed(self) -> int:
        """What the allocator needs of a card: the tensors, and the margin for free blocks between them."""
        return round(self.allocated * (1 + FRAGMENTATION))


@dataclass(frozen=True)
class TrainedModel:
    """A model and its adapter, as far as memory and time depend on them.

    Attributes:
        config: of the model.
        lora: the settings of the adapter.
        dtype: of the frozen weights and of the computation.
        quantise: ``none``, or ``nf4`` for 4-bit weights in the layers.
    """

    config: HiggsAudioConfig
    lora: HiggsAudioLoRATrainingConfig
    dtype: torch.dtype
    quantise: str = "none"

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of the frozen weights."""
        with torch.device("meta"):
            weights = HiggsAudioModel(self.config).named_parameters()
        size = self.dtype.itemsize
        return round(sum(weight.numel() * self._bytes_per_weight(name, weight, size) for name, weight in weights))

    def _bytes_per_weight(self, name: str, weight: torch.Tensor, size: int) -> float:
        is_packed = self.quantise == "nf4" and name.startswith("layers.") and weight.dim() == 2
        return NF4_BYTES_PER_WEIGHT if is_packed else size

    @cached_property
    def trainable(self) -> int:
        """Weights of the adapter, which are fp32."""
        return sum(prod(shape) for shape in adapter_form(self.config, self.lora).parameters)

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels of recompute that the layers know, from the fastest to the one that needs least memory."""
        return RECOMPUTE_LEVELS if takes_fused_layers(self.config, self.lora) else ("none", "layer")

    def memory(self, shape: BatchShape, recompute: str) -> MemoryEstimate:
        """Return the memory of a training step whose micro-batches are of this shape, at its peak."""
        found = self._activations(shape, recompute)
        states = 2 * self._state_bytes(shape)  # of the rows with a label, and their gradients
        if found.kept + states + self._head_bytes(shape) >= found.kept_below + found.momentary:
            return self._at_peak(found.kept + states, heads=self._head_bytes(shape))
        return self._at_peak(found.kept_below, layer=found.momentary + self._dequantised)

    def evaluation(self, shape: BatchShape) -> MemoryEstimate:
        """Return the memory of an evaluation step, which keeps nothing for a backward pass."""
        found, states = self._activations(shape, "none"), self._state_bytes(shape)
        if states + self._head_bytes(shape) >= found.evaluation:
            return self._at_peak(states, heads=self._head_bytes(shape))
        return self._at_peak(0, layer=found.evaluation + self._dequantised)

    def _activations(self, shape: BatchShape, recompute: str) -> Activations:
        return activations(self.config, self.lora, self.dtype, recompute, shape)

    def _at_peak(self, kept: int, heads: int = 0, layer: int = 0) -> MemoryEstimate:
        master = 4 * self.trainable
        return MemoryEstimate(
            weights=self.weight_bytes,
            adapter=master + self._copies,
            gradients=master,
            optimizer=2 * master,
            copy=3 * master,
            workspace=WORKSPACE_BYTES,
            activations=kept,
            heads=heads,
            layer=layer,
        )

    @property
    def _copies(self) -> int:
        """Bytes of the adapter in the type of the computation, besides fp32."""
        is_fused = takes_fused_layers(self.config, self.lora)
        return self.trainable * self.dtype.itemsize if is_fused or self.dtype != torch.float32 else 0

    @property
    def _dequantised(self) -> int:
        """Bytes of the largest matrix of the fused layers, which is made of 4-bit weights for a moment."""
        width = max(self.config.text_config.intermediate_size, self.config.audio_ffn_intermediate_size)
        return 2 * width * self.config.hidden_size * self.dtype.itemsize if self.quantise == "nf4" else 0

    def _state_bytes(self, shape: BatchShape) -> int:
        """Return the bytes of the hidden states of the rows that each head reads."""
        return (shape.text_rows + shape.audio_rows) * self.config.hidden_size * self.dtype.itemsize

    def _head_bytes(self, shape: BatchShape) -> int:
        """Return the bytes of the logits of the head that needs more."""
        audio = self.config.audio_num_codebooks * self.config.codebook_rows
        pairs = (shape.text_rows, self.config.vocab_size), (shape.audio_rows, audio)
        return max(self._logit_bytes(rows, width) for rows, width in pairs)

    def _logit_bytes(self, rows: int, width: int) -> int:
        """Return the bytes of the logits of one head: those of a chunk of rows, and what is left of the one before."""
        chunk = max(1, LOGITS_PER_CHUNK // width)
        size = self.dtype.itemsize
        first, second = min(rows, chunk), min(max(0, rows - chunk), chunk)
        left = (4 + size) * first if second else 0
        return width * max(first * (4 * FP32_LOGITS + size), left + second * (4 * FP32_LOGITS + size))

    def largest_budget(self, available: int, recompute: str, longest: int) -> int:
        """Return the most positions of a micro-batch that fit ``available`` bytes; 0 if none do.

        Args:
            available: bytes that the allocator can get.
            recompute: one of ``RECOMPUTE_LEVELS``.
            longest: positions of the longest sample.
        """

        def fits(steps: int) -> bool:
            shape = BatchShape.full_of(steps * BUDGET_STEP, longest)
            return self.memory(shape, recompute).needed <= available

        low, high = 0, 1
        while fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low * BUDGET_STEP

    def cheapest_recompute(self, available: int, shape: BatchShape) -> str | None:
        """Return the fastest level of recompute that fits ``available`` bytes; None if none does."""
        for level in self.levels:
            if self.memory(shape, level).needed <= available:
                return level
        return None
