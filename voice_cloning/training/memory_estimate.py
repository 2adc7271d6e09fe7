"""How much GPU memory a training step takes, part by part, before any weight is loaded.

All functions are pure. What autograd keeps for the backward pass is counted tensor by tensor
(``activation_memory.py``); tests compare the sums with torch's allocator at the released size. The memory of a step is

    lasting:     weights + adapter + gradients + AdamW's two moments + workspace of the matrix products
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
from voice_cloning.training.activation_memory import LayerMemory, layer_memory
from voice_cloning.training.config import RECOMPUTE_LEVELS

GB = 1e9
FRAGMENTATION = 0.05
"""Reserved over allocated memory, at most, over steps of varied lengths: the margin of every decision."""
WORKSPACE_BYTES = 2 * 2**25
"""What the matrix products keep for themselves on a Hopper card; other cards take less."""
BUDGET_STEP = 64
"""``--max_tokens_per_batch auto`` is a multiple of this number of positions."""
LOSS_BYTES_PER_LOGIT = 12
"""Logits of a chunk in fp32 exist three times in the backward pass of the cross entropy."""
NF4_BYTES_PER_WEIGHT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""4 bits, one byte for a block of 64 weights, and one fp32 number for 256 of these bytes."""
QUANTISE_KINDS = ("none", "nf4")


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


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of the parts of a training step at its peak.

    Attributes:
        weights, adapter, gradients, optimizer, workspace: what lasts from step to step.
        activations: what the forward pass keeps for the backward pass.
        heads: logits of the loss, at the end of the forward pass.
        layer: what one layer needs for a moment; with recompute, also what it computes again.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    workspace: int
    activations: int
    heads: int
    layer: int

    @property
    def lasting(self) -> int:
        """Bytes between two steps."""
        return self.weights + self.adapter + self.gradients + self.optimizer + self.workspace

    @property
    def allocated(self) -> int:
        """The most bytes that tensors take at a time."""
        return self.lasting + self.activations + max(self.heads, self.layer)

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

    def layers(self, recompute: str) -> LayerMemory:
        """Return what the layers keep and need at a level of recompute."""
        return layer_memory(self.config, self.lora, self.dtype, recompute, self.quantise)

    def memory(self, shape: BatchShape, recompute: str) -> MemoryEstimate:
        """Return the memory of a step whose micro-batches are of this shape."""
        layers, master = self.layers(recompute), 4 * self.trainable
        kept, top = layers.of(shape.lengths, shape.audio_positions)
        row = (shape.text_rows + shape.audio_rows) * self.config.hidden_size * self.dtype.itemsize
        casts = 0 if self.dtype == torch.float32 else self.trainable * self.dtype.itemsize
        return MemoryEstimate(
            weights=self.weight_bytes,
            adapter=master,
            gradients=master,
            optimizer=2 * master,
            workspace=WORKSPACE_BYTES,
            activations=kept + casts + row,
            heads=self._logits(shape) * LOSS_BYTES_PER_LOGIT,
            layer=top,
        )

    def evaluation(self, shape: BatchShape) -> MemoryEstimate:
        """Return the memory of an evaluation step, which keeps nothing for a backward pass."""
        whole = self.memory(shape, "layer")
        return whole

    def _logits(self, shape: BatchShape) -> int:
        """Return the logits of the larger chunk of the two heads."""
        audio = self.config.audio_num_codebooks * self.config.codebook_rows
        found = []
        for rows, width in ((shape.text_rows, self.config.vocab_size), (shape.audio_rows, audio)):
            found.append(min(rows, max(1, LOGITS_PER_CHUNK // width)) * width)
        return max(found)

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
        for level in RECOMPUTE_LEVELS:
            if self.memory(shape, level).needed <= available:
                return level
        return None
