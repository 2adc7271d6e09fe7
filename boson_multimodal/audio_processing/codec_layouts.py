"""Convert the codec between Boson's original format (its own ``config.json`` and ``model.pth``) and transformers'.

Names, shapes and fields are those of ``bosonai/higgs-audio-v2-tokenizer`` at revision
``9d4988fbd4ad07b4cac3a5fa462741a41810dbec``, the last one in the original format. Its ``model.pth`` holds 201,426,474
fp32 numbers under the module names of Boson's code: the encoder and the decoder of descript-audio-codec with weight
norm, the semantic stacks and the quantizer of xcodec, and the whole HuBERT. No other file is downloaded.
"""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import HiggsAudioV2TokenizerConfig, HiggsAudioV2TokenizerModel

from boson_multimodal.checkpoints import read_config
from boson_multimodal.errors import InputError, raise_if_any

Layout = Literal["original", "transformers"]

ORIGINAL_WEIGHTS = "model.pth"
SEMANTIC_TEACHER = "hubert_base_general"

MARKING_FIELDS = ("ratios", "bins", "n_q", "semantic_techer")
"""Fields that identify the original's ``config.json``, in the original's spelling. It must have all of them."""
IGNORED_FIELDS = ("n_filters", "normalize", "causal", "last_layer_semantic", "merge_mode", "semantic_mode")
"""Fields that Boson's class accepts but does not use, at least not with the HuBERT teacher."""
OVERRIDE_FIELDS = ("acoustic_model_config", "semantic_model_config")
"""Fields of this project, for codecs smaller than the release. They override sizes that are constants in Boson's code
(encoder width 64, decoder width 1024, HuBERT base)."""

# The original's code saves this tensor. Encoding does not need it: HuBERT uses it as a mask in pretraining only.
UNUSED_TENSORS = ("semantic_model.masked_spec_embed",)

# Weight norm splits a weight into magnitude and direction. torch has two naming schemes for the pair.
PAIR_SPELLINGS = (
    (".weight_g", ".parametrizations.weight.original0"),
    (".weight_v", ".parametrizations.weight.original1"),
)


def codec_layout(folder: Path) -> Layout:
    """Return the format of the folder's ``config.json``.

    Raises:
        InputError: if the file has neither format, is missing or cannot be read.
    """
    found = read_config(folder, str(folder))
    if found.get("model_type") == HiggsAudioV2TokenizerConfig.model_type:
        return "transformers"
    absent = [name for name in MARKING_FIELDS if name not in found]
    if "model_type" not in found and not absent:
        return "original"
    raise InputError(
        f"{folder}: config.json has model_type {found.get('model_type')!r}, not "
        f"{HiggsAudioV2TokenizerConfig.model_type!r}, and does not have Boson's original format either (its fields "
        f"{', '.join(MARKING_FIELDS)}{'; not there: ' + ', '.join(absent) if absent else ''}): give the codec in one "
        "of these formats (on the hub: the revision that --audio_tokenizer_revision is pinned to)"
    )


# -- configuration -----------------------------------------------------------------------------------------------------


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _config_offenders(found: Mapping[str, Any]) -> list[str]:
    """Return a problem for each field that is missing, unknown, or has a value that transformers' class cannot hold."""
    rules = {
        "D": (_is_count, "a whole number from 1"),
        "codebook_dim": (_is_count, "a whole number from 1"),
        "sample_rate": (_is_count, "a whole number from 1"),
        "n_q": (_is_count, "a whole number from 1"),
        "bins": (lambda v: _is_count(v) and v > 1, "a whole number from 2 (residual vector quantization)"),
        "ratios": (lambda v: isinstance(v, list) and v and all(map(_is_count, v)), "a list of whole numbers from 1"),
        "target_bandwidths": (lambda v: isinstance(v, list) and all(map(_is_number, v)), "a list of numbers (kbit/s)"),
        "semantic_techer": (lambda v: v == SEMANTIC_TEACHER, repr(SEMANTIC_TEACHER)),
    }
    optional = {
        "vq_scale": (lambda v: v == 1, "1"),
        "downsample_mode": (lambda v: v == "step_down", "'step_down'"),
        "semantic_sample_rate": (lambda v: v is None or _is_count(v), "null or a whole number from 1"),
        **{name: (lambda v: isinstance(v, dict), "an object") for name in OVERRIDE_FIELDS},
    }
    offenders = [f"{name}: missing" for name in rules if name not in found]
    known = {**rules, **optional}
    offenders += [f"{name}: not a field of the format" for name in found.keys() - known.keys() - set(IGNORED_FIELDS)]
    for name, (allowed, right) in known.items():
        if name in found and not allowed(found[name]):
            offenders.append(f"{name}: {found[name]!r} instead of {right}")
    return sorted(offenders)


def read_original_config(folder: Path) -> HiggsAudioV2TokenizerConfig:
    """Read the original's ``config.json`` as a configuration of transformers.

    transformers derives the number of codebooks from the highest bandwidth. The original's list contains bandwidths
    above that of its codebooks (the release lists up to 4 kbit/s, but its 8 codebooks make 2), so the list is cut.

    Raises:
        InputError: listing every field that is missing, unknown or out of range.
    """
    found = read_config(folder, str(folder))
    raise_if_any(f"{folder}: config.json of Boson's original format", _config_offenders(found))
    ratios, frame_rate = found["ratios"], math.ceil(found["sample_rate"] / math.prod(found["ratios"]))
    highest = found["n_q"] * frame_rate * math.ceil(math.log2(found["bins"])) / 1000
    acoustic = {"encoder_hidden_size": 64, "decoder_hidden_size": 1024, "hidden_size": found["D"]}
    acoustic |= {"downsampling_ratios": ratios, "upsampling_ratios": ratios}
    config = HiggsAudioV2TokenizerConfig(
        target_bandwidths=[*sorted(b for b in found["target_bandwidths"] if b < highest), highest],
        sample_rate=found["sample_rate"],
        codebook_size=found["bins"],
        codebook_dim=found["codebook_dim"],
        semantic_sample_rate=found.get("semantic_sample_rate") or 16000,
        acoustic_model_config={"model_type": "dac", **acoustic, **found.get("acoustic_model_config", {})},
        semantic_model_config={"model_type": "hubert", **found.get("semantic_model_config", {})},
    )
    if config.num_quantizers != found["n_q"]:
        raise InputError(
            f"{folder}: config.json: n_q {found['n_q']} at {frame_rate} frames/s and {found['bins']} bins is no "
            f"bandwidth that transformers' class can hold (it would make {config.num_quantizers} codebooks)"
        )
    return config


def original_config(config: HiggsAudioV2TokenizerConfig) -> dict[str, Any]:
    """Return the content of the original's ``config.json``: the inverse of :func:`read_original_config`."""
    acoustic, semantic = config.acoustic_model_config, config.semantic_model_config
    return {
        "n_filters": 32,
        "D": acoustic.hidden_size,
        "codebook_dim": config.codebook_dim,
        "target_bandwidths": [*config.target_bandwidths, 2 * config.target_bandwidths[-1]],
        "ratios": list(acoustic.downsampling_ratios),
        "sample_rate": config.sample_rate,
        "bins": config.codebook_size,
        "n_q": config.num_quantizers,
        "semantic_techer": SEMANTIC_TEACHER,
        "acoustic_model_config": {
            "encoder_hidden_size": acoustic.encoder_hidden_size,
            "decoder_hidden_size": acoustic.decoder_hidden_size,
        },
        "semantic_model_config": {k: v for k, v in semantic.to_diff_dict().items() if k != "transformers_version"},
    }


# -- names of tensors --------------------------------------------------------------------------------------------------


def _module_names(config: HiggsAudioV2TokenizerConfig) -> dict[str, str]:
    """Return transformers' module name -> the original's, for the modules whose names differ."""
    stages = len(config.acoustic_model_config.downsampling_ratios)
    names = {"fc": "fc_prior", "fc1": "fc_post1", "fc2": "fc_post2"}
    # The original has one sequence: a convolution, the stages, a Snake, a convolution. The three residual units come
    # first in a stage of the encoder and last in a stage of the decoder.
    for ours, theirs, units, snake, conv in (
        ("acoustic_encoder", "encoder.block", 0, 3, ("conv1", 4)),
        ("acoustic_decoder", "decoder_2.model", 2, 0, ("conv_t1", 1)),
    ):
        names |= {f"{ours}.conv1": f"{theirs}.0"}
        names |= {f"{ours}.snake1": f"{theirs}.{stages + 1}", f"{ours}.conv2": f"{theirs}.{stages + 2}"}
        for i in range(stages):
            stage, sequence = f"{ours}.block.{i}", f"{theirs}.{i + 1}.block"
            names |= {f"{stage}.snake1": f"{sequence}.{snake}", f"{stage}.{conv[0]}": f"{sequence}.{conv[1]}"}
            for unit in range(3):
                for j, layer in enumerate(("snake1", "conv1", "snake2", "conv2")):
                    names[f"{stage}.res_unit{unit + 1}.{layer}"] = f"{sequence}.{units + unit}.block.{j}"
    # The original wraps every convolution in a module, except the 1x1 ones (conv2 of a residual unit).
    names["encoder_semantic.conv"] = "encoder_semantic.conv.conv"
    names |= {f"decoder_semantic.conv{j}": f"decoder_semantic.conv{j}.conv" for j in (1, 2)}
    for side in ("encoder_semantic", "decoder_semantic"):
        for i in range(len(config.strides)):
            block = f"{side}.conv_blocks.{i}"
            names[f"{block}.conv"] = f"{block}.conv.conv"
            for j in range(len(config.block_dilations)):
                names[f"{block}.res_units.{j}.conv1"] = f"{block}.res_units.{j}.conv1.conv"
    for k in range(config.num_quantizers):
        ours, theirs = f"quantizer.quantizers.{k}", f"quantizer.vq.layers.{k}"
        names |= {f"{ours}.{layer}": f"{theirs}.{layer}" for layer in ("project_in", "project_out")}
        names[f"{ours}.codebook"] = f"{theirs}._codebook"
    return names


def original_names(model: HiggsAudioV2TokenizerModel) -> dict[str, tuple[str, ...]]:
    """Return transformers' tensor name -> the original's: one name, or the pair (g, v) of a weight norm.

    HuBERT's positional convolution is a pair with the same names in both formats.
    """
    modules, names = _module_names(model.config), {}
    for name in model.state_dict():
        module, _, leaf = name.rpartition(".")
        theirs = modules.get(module, module)
        split = leaf == "weight" and name.startswith(("acoustic_encoder.", "acoustic_decoder."))
        names[name] = tuple(f"{theirs}.{part}" for part in (("weight_g", "weight_v") if split else (leaf,)))
    return names


# -- tensors -----------------------------------------------------------------------------------------------------------


def merge_weight_norm(magnitude: Tensor, direction: Tensor) -> Tensor:
    """Return the fp32 weight of a magnitude (out, 1, 1) and a direction (out, ...).

    g / |v| is computed first, which makes this the exact inverse of :func:`split_weight_norm`.
    """
    direction = direction.float()
    return direction * (magnitude.float() / torch.norm_except_dim(direction, 2, 0))


def split_weight_norm(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight's magnitude along the first dimension, and the weight itself as the direction."""
    return torch.norm_except_dim(weight, 2, 0), weight


def original_tensors(model: HiggsAudioV2TokenizerModel) -> dict[str, Tensor]:
    """Return the codec's tensors in the original format: the inverse of :func:`read_original_tensors`."""
    state, tensors = model.state_dict(), {}
    for name, theirs in original_names(model).items():
        parts = split_weight_norm(state[name]) if len(theirs) == 2 else (state[name],)
        tensors |= dict(zip(theirs, parts, strict=True))
    return tensors


def original_shapes(model: HiggsAudioV2TokenizerModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by its original name."""
    state, shapes = model.state_dict(), {}
    for name, theirs in original_names(model).items():
        shape = tuple(state[name].shape)
        parts = ((shape[0], 1, 1), shape) if len(theirs) == 2 else (shape,)
        shapes |= dict(zip(theirs, parts, strict=True))
    return shapes


def _other_spelling(name: str) -> str:
    """Return torch's other name for one half of a weight norm pair. Return any other name unchanged."""
    for old, new in PAIR_SPELLINGS:
        for suffix, other in ((old, new), (new, old)):
            if name.endswith(suffix):
                return name.removesuffix(suffix) + other
    return name


def _unpickle(path: Path) -> dict[str, Any]:
    """Load a file of ``torch.save`` without running code that it may contain. Tensors stay on disk until read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there; give a whole checkpoint") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than tensors, and reading the rest could run any code; fetch it from its publisher"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a whole file of torch.save ({reason}); fetch it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    return content


def read_original_tensors(path: Path, model: HiggsAudioV2TokenizerModel) -> dict[str, Tensor]:
    """Read ``model.pth`` as fp32 tensors in transformers' format. Only names and shapes of ``model`` are used.

    Raises:
        InputError: if the file is missing, truncated or holds more than tensors. If tensors are missing, unexpected or
            have a wrong shape, the error lists them all.
    """
    found, names, shapes = _unpickle(path), original_names(model), original_shapes(model)
    for name in shapes.keys() - found.keys():
        if (other := _other_spelling(name)) in found:
            found[name] = found.pop(other)
    offenders = [f"{name}: missing" for name in sorted(shapes.keys() - found.keys())]
    offenders += [f"{name}: unexpected" for name in sorted(found.keys() - shapes.keys() - set(UNUSED_TENSORS), key=str)]
    for name in sorted(shapes.keys() & found.keys()):
        if not isinstance(found[name], Tensor):
            offenders.append(f"{name}: a {type(found[name]).__name__}, not a tensor")
        elif tuple(found[name].shape) != shapes[name]:
            offenders.append(f"{name}: shape {tuple(found[name].shape)}, not {shapes[name]}")
    raise_if_any(f"{path}: tensors do not fit the codec's configuration", offenders)
    return {
        name: merge_weight_norm(*(found[part] for part in theirs)) if len(theirs) == 2 else found[theirs[0]].float()
        for name, theirs in names.items()
    }
