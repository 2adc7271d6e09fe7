"""4-bit weights of the layers' linear modules (``--quantise nf4``), made and read by the library bitsandbytes.

Quantised are the projections of attention and FFNs in all layers: 4.9 of the release's 5.8 billion weights. Norms,
embeddings, heads and the audio tower keep the type of the run.

A weight takes 4 bits: its place among 16 values that are dense near zero ("NormalFloat"). The values are scaled by the
largest absolute weight of a block of 64. Such a scale takes 8 bits, and the scales of 256 blocks share one more in fp32
("double quantisation"). That is 4.13 bits a weight (arXiv:2305.14314).
"""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit, Params4bit

NOT_QUANTISED, NF4 = "none", "nf4"
QUANTISATIONS = (NOT_QUANTISED, NF4)
"""The values of ``--quantise``."""
INSTALL = "pip install 'bitsandbytes>=0.50.2,<1'"
BLOCK_SIZE, SCALES_PER_BLOCK = 64, 256
CHUNK = 2**18
"""Weights that are quantised at once on a CPU, where bitsandbytes needs 20 bytes for each. A multiple of the block."""


def require_quantisation(quantise: str, device: torch.device) -> None:
    """Check that a quantisation can be computed on this device, by computing a little of it.

    Raises:
        InputError: if ``quantise`` is unknown, or bitsandbytes is missing or does not work here.
    """
    if quantise not in QUANTISATIONS:
        raise InputError(f"quantise is {quantise!r}; it must be one of {list(QUANTISATIONS)}")
    if quantise == NOT_QUANTISED:
        return
    if find_spec("bitsandbytes") is None:
        raise InputError(f"--quantise {quantise} needs bitsandbytes, which is not installed; {INSTALL}")
    try:
        dequantised_by(quantise_weight(torch.zeros(BLOCK_SIZE, BLOCK_SIZE, device=device)))
    except (ImportError, OSError, RuntimeError, NotImplementedError) as error:
        # It is built for one version of CUDA, and some platforms have a part of it only.
        raise InputError(
            f"--quantise {quantise}: bitsandbytes does not work on this machine's {device.type} "
            f"({type(error).__name__}: {error}); see python -m bitsandbytes, or leave the flag out"
        ) from error


def check_widths(config: HiggsAudioConfig, shown: str) -> None:
    """Check that no block of 64 weights spans two rows: bitsandbytes' CPU kernel would silently read wrong weights.

    Args:
        config: of the model to quantise.
        shown: what error messages call the model.

    Raises:
        InputError: listing the widths that are no multiple of 64.
    """
    text = config.text_config
    widths = {
        "hidden_size": text.hidden_size,
        "num_attention_heads * head_dim": text.num_attention_heads * text.head_dim,
        "intermediate_size": text.intermediate_size,
    }
    if config.audio_dual_ffn_layers:
        widths["audio_ffn_intermediate_size"] = config.audio_ffn_intermediate_size
    offenders = [f"{name} is {width}" for name, width in widths.items() if width % BLOCK_SIZE]
    raise_if_any(f"{shown}: --quantise {NF4} needs widths that are multiples of {BLOCK_SIZE}", offenders)


def check_quantisation(quantise: str, device: torch.device, config: HiggsAudioConfig, shown: str) -> None:
    """Make both checks for a model. Raise the errors of :func:`require_quantisation` and :func:`check_widths`."""
    require_quantisation(quantise, device)
    if quantise != NOT_QUANTISED:
        check_widths(config, shown)


def linears_of_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear modules of ``model.layers`` by their names in the model."""
    return {f"layers.{name}": module for name, module in model.layers.named_modules() if isinstance(module, nn.Linear)}


def replace_linears(model: nn.Module, dtype: torch.dtype) -> dict[str, "Linear4bit"]:
    """Replace the linear modules of the layers by those of bitsandbytes, which have no weights yet.

    Args:
        model: a ``HiggsAudioModel`` without weights, on the meta device.
        dtype: the type in which the new modules compute.

    Returns:
        The new modules by the names of their weights.
    """
    from bitsandbytes.nn import Linear4bit

    replaced = {}
    for name, linear in linears_of_layers(model).items():
        with torch.device("meta"):
            module = Linear4bit(
                linear.in_features, linear.out_features, linear.bias is not None, compute_dtype=dtype, quant_type=NF4
            )
        # Where a CPU has AVX512-BF16, the first call in evaluation mode would repack the weights for a kernel that has
        # no gradient, and training after an evaluation would silently learn nothing.
        module.support_avx512bf16_for_cpu = False
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, module)
        replaced[f"{name}.weight"] = module
    model.is_loaded_in_4bit = True  # what PEFT asks, before it gives these modules its own form of LoRA
    return replaced


def load_quantised(model: nn.Module, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> None:
    """Fill a model on the meta device, one tensor after the other; those of the layers' linear modules are quantised.

    Args:
        model: a ``HiggsAudioModel`` whose configuration :func:`check_widths` accepted.
        weights: all its tensors by name, in ``dtype`` on their device. None is kept longer than it is needed.
        dtype: the type in which the quantised modules compute.
    """
    quantised, others = replace_linears(model, dtype), {}
    for name, weight in weights:
        if name in quantised:
            set_weight(quantised[name], weight)
        else:
            others[name] = weight
    model.load_state_dict(others, strict=False, assign=True)


def set_weight(module: "Linear4bit", weight: Tensor) -> None:
    """Give a module the quantised form of an (out, in) weight."""
    module.weight = quantise_weight(weight)
    module.quant_state = module.weight.quant_state


@torch.no_grad()
def quantise_weight(weight: Tensor) -> "Params4bit":
    """Quantise an (out, in) weight on its device. The result is that of bitsandbytes for the whole weight at once."""
    from bitsandbytes import functional
    from bitsandbytes.nn import Params4bit

    pieces = weight.view(-1).split(CHUNK if weight.device.type == "cpu" else weight.numel())
    chunks = [functional.quantize_4bit(piece, blocksize=BLOCK_SIZE, quant_type=NF4) for piece in pieces]
    scales = torch.cat([state.absmax for _, state in chunks])
    offset = scales.mean()
    scales, scales_of_scales = functional.quantize_blockwise(scales - offset, blocksize=SCALES_PER_BLOCK)
    state = functional.QuantState(
        absmax=scales,
        shape=weight.shape,
        code=chunks[0][1].code,
        blocksize=BLOCK_SIZE,
        quant_type=NF4,
        dtype=weight.dtype,
        offset=offset,
        state2=scales_of_scales,
    )
    packed = torch.cat([chunk for chunk, _ in chunks])
    return Params4bit(packed, quant_state=state, blocksize=BLOCK_SIZE, quant_type=NF4, bnb_quantized=True)


def is_quantised(linear: nn.Module) -> bool:
    """Return whether the weight of a linear module is a quantised one."""
    return getattr(linear.weight, "quant_state", None) is not None


def dequantised(linear: nn.Module, out: Tensor | None = None) -> Tensor:
    """Return the (out, in) weight of a quantised linear module in its compute type.

    On CUDA that is three launches, and a temporary of 1/32 of the result's size for bf16. It waits for nothing.

    Args:
        linear: a module for which :func:`is_quantised` holds.
        out: a contiguous tensor of this shape and type that receives the result.
    """
    return dequantised_by(linear.weight, out)


@torch.no_grad()
def dequantised_by(weight: "Params4bit", out: Tensor | None = None) -> Tensor:
    """Like :func:`dequantised`, for the weight itself."""
    from bitsandbytes import functional

    if out is None or out.is_cuda:
        return functional.dequantize_4bit(weight.data, weight.quant_state, out=out)
    return out.copy_(functional.dequantize_4bit(weight.data, weight.quant_state))  # the CPU kernel has no such argument
