"""How many floating-point operations training takes, and how long that is on a card: a rough estimate."""

from voice_cloning.training.activation_memory import BatchShape
from voice_cloning.training.memory_estimate import TrainedModel

ASSUMED_SHARE = 0.3
"""The part of a card's bf16 peak that a step is assumed to use. No run of this program on a GPU has confirmed it."""
ATTENTION_BACKWARD = 2.5
"""Products of the backward pass of attention, per product of its forward pass."""


def forward_flops(model: TrainedModel, shape: BatchShape) -> float:
    """Return the operations of the layers in one forward pass, with two for each multiplication of a weight."""
    return _products(model, shape) + _attention(model, shape)


def training_flops(model: TrainedModel, shape: BatchShape, recompute: str) -> float:
    """Return the operations of the forward and backward pass of a micro-batch.

    The frozen weights get no gradient, so the backward pass takes as many products as the forward pass, for the
    gradients of the inputs. The adapter takes twice as many; each position is counted as if it took all adapters. The
    heads run again in the backward pass.
    """
    layers, attention = _products(model, shape), _attention(model, shape)
    again = {"none": 0.0, "ffn": _gate_and_up(model, shape), "layer": layers + attention}[recompute]
    adapter = 6.0 * model.trainable * shape.positions
    return 2 * layers + (1 + ATTENTION_BACKWARD) * attention + again + adapter + 3 * head_flops(model, shape)


def base_kl_flops(model: TrainedModel, shape: BatchShape) -> float:
    """Return the operations that ``--base_kl_weight`` adds to a micro-batch that takes part in it.

    They are a forward pass of the base, and the divergence: the heads of both forward, again in the backward pass, and
    the gradient of the states.
    """
    return forward_flops(model, shape) + 6 * head_flops(model, shape)


def head_flops(model: TrainedModel, shape: BatchShape) -> float:
    """Return the operations of both heads in one forward pass."""
    config = model.config
    audio = config.audio_num_codebooks * config.codebook_rows
    return 2.0 * config.hidden_size * (shape.text_rows * config.vocab_size + shape.audio_rows * audio)


def seconds_on(flops: float, tflops: float) -> float:
    """Return the seconds that operations take on a card with a peak of ``tflops`` (1e12 operations per second)."""
    return flops / (ASSUMED_SHARE * tflops * 1e12)


def _products(model: TrainedModel, shape: BatchShape) -> float:
    config, text = model.config, model.config.text_config
    heads = text.num_attention_heads + text.num_key_value_heads
    attention = 2 * config.hidden_size * heads * text.head_dim
    return 2.0 * text.num_hidden_layers * attention * shape.positions + 1.5 * _gate_and_up(model, shape)


def _gate_and_up(model: TrainedModel, shape: BatchShape) -> float:
    config, text = model.config, model.config.text_config
    widths = (
        shape.positions - shape.audio_positions
    ) * text.intermediate_size + shape.audio_positions * config.audio_ffn_intermediate_size
    return 2.0 * text.num_hidden_layers * 2 * config.hidden_size * widths


def _attention(model: TrainedModel, shape: BatchShape) -> float:
    text = model.config.text_config
    pairs = sum(length * length for length in shape.lengths) / 2
    return 4.0 * text.num_hidden_layers * text.num_attention_heads * text.head_dim * pairs
