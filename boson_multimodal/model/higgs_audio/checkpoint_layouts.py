"""The two published layouts of the model: names of tensors and modules, and fields of ``config.json``.

*original* is the layout of Boson's release, and :class:`HiggsAudioModel` uses its names. *transformers* is the layout
of ``HiggsAudioV2ForConditionalGeneration``. Every table here is used in both directions: to load and to export.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers import HiggsAudioV2Config
from transformers.configuration_utils import PreTrainedConfig

from boson_multimodal.errors import InputError, raise_if_any

ORIGINAL, TRANSFORMERS = "original", "transformers"
LAYOUTS = (ORIGINAL, TRANSFORMERS)

NAMES = (
    ("embed_tokens", "model.embed_tokens"),
    ("audio_codebook_embeddings", "model.embed_audio_tokens.embed_audio_tokens"),
    ("layers", "model.layers"),
    ("norm", "model.norm"),
    ("audio_decoder_proj.text_lm_head", "text_lm_head"),
    ("audio_decoder_proj.audio_lm_head", "audio_lm_head"),
)
"""Pairs of module names, (original, transformers). The rest of a tensor's name is the same in both layouts."""

ORIGINAL_ONLY = ("audio_tower", "audio_encoder_proj")
"""Modules that transformers' class does not have."""

HALVES = (("embedding_frozen", "embedding_trainable"), ("linear_frozen", "linear_trainable"))
"""The two halves into which Boson's training code splits a partly trained embedding or head: frozen rows first."""

COMPUTED = ("audio_codebook_weights", "rotary_emb.inv_freq", "rotary_emb.original_inv_freq")
"""Endings of names of tensors that some original files contain, although the model computes them."""

TEXT_FIELDS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "hidden_act max_position_embeddings initializer_range rms_norm_eps rope_parameters attention_bias "
    "attention_dropout mlp_bias bos_token_id"
).split()
"""Fields with the same name in our ``text_config`` and at the top level of ``HiggsAudioV2Config``."""

AUDIO_FIELDS = (
    ("audio_num_codebooks", "num_codebooks"),
    ("audio_out_token_idx", "audio_token_id"),
    ("audio_out_bos_token_id", "audio_bos_token_id"),
    ("audio_stream_bos_id", "audio_stream_bos_id"),
    ("audio_stream_eos_id", "audio_stream_eos_id"),
    ("pad_token_id", "pad_token_id"),
)
"""Pairs of field names at the top level of our config and of ``HiggsAudioV2Config``. The codebook size is not included:
``HiggsAudioV2Config`` also counts bos and eos."""

OWN_FIELDS = ("audio_in_token_idx", "audio_eos_token_id", "encode_audio_in_tokens")
"""Fields that transformers' config lacks. An export adds them; transformers' class keeps and ignores them.

In files without these fields the ids follow from the fixed order of special tokens in the vocabulary: ``<|eot_id|>``,
two more, ``<|audio_eos|>``, ``<|audio_out_bos|>``, the delay token, ``<|AUDIO|>``, ``<|AUDIO_OUT|>``.
"""


def to_transformers_name(name: str) -> str:
    """Return transformers' name of one of our tensors or modules (``layers.0.mlp`` -> ``model.layers.0.mlp``).

    Raises:
        InputError: if the transformers layout has no such tensor or module.
    """
    found = _renamed(name, ((ours, theirs) for ours, theirs in NAMES))
    if found is None:
        raise InputError(f"{name}: the transformers layout has no such tensor or module")
    return found


def to_original_name(name: str) -> str:
    """Return the original name of one of transformers' tensors or modules: the inverse of :func:`to_transformers_name`.

    Raises:
        InputError: if the original layout has no such tensor or module.
    """
    found = _renamed(name, ((theirs, ours) for ours, theirs in NAMES))
    if found is None:
        raise InputError(f"{name}: the original layout has no such tensor or module")
    return found


def detect_layout(names: Iterable[str]) -> str:
    """Return the layout of a set of tensor names. Neither the config nor the folder's name is used.

    Raises:
        InputError: if no name belongs to either layout, or if the names of both are mixed.
    """
    names = sorted(names)
    original = [name for name in names if _is_original(name)]
    transformers = [name for name in names if _renamed(name, ((theirs, ours) for ours, theirs in NAMES)) is not None]
    if original and transformers:
        raise InputError(
            f"tensors of both layouts in one checkpoint: {original[0]} is an original name, {transformers[0]} is a "
            "name of transformers; give a folder with one layout"
        )
    if not original and not transformers:
        raise InputError(f"no tensor has a name of Higgs Audio v2 (the first are {names[:3]}); give a checkpoint of it")
    return ORIGINAL if original else TRANSFORMERS


@dataclass(frozen=True)
class Role:
    """The part of the model in a stored tensor: parameter ``name``, or half of its rows (0 frozen, 1 trainable)."""

    name: str
    half: int | None = None


def role_of(key: str, layout: str) -> Role | None:
    """Return the part of the model that the tensor ``key`` holds; None if the layout has no such tensor."""
    if layout == TRANSFORMERS:
        name = _renamed(key, ((theirs, ours) for ours, theirs in NAMES))
        return None if name is None else Role(name)
    if not _is_original(key):
        return None
    for pair in HALVES:
        for half, module in enumerate(pair):
            if f".{module}." in key:
                return Role(key.replace(f".{module}.", ".", 1), half)
    return Role(key)


def key_of(name: str, layout: str) -> str:
    """Return the stored name of parameter ``name``, or ``name`` itself if the layout has no such tensor."""
    if layout == TRANSFORMERS:
        return _renamed(name, NAMES) or name
    return name


def from_transformers_config(found: dict[str, Any]) -> dict[str, Any]:
    """Convert the fields of a ``HiggsAudioV2Config`` file to those of a :class:`HiggsAudioConfig`.

    Raises:
        huggingface_hub.errors.StrictDataclassError: if transformers rejects a value of the file.
    """
    theirs = HiggsAudioV2Config(**{key: value for key, value in found.items() if key != "model_type"})
    text = {name: getattr(theirs, name) for name in TEXT_FIELDS}
    text |= {"eos_token_id": theirs.eos_token_id, "pad_token_id": theirs.pad_token_id}
    ours = {name: getattr(theirs, their_name) for name, their_name in AUDIO_FIELDS}
    ours |= {
        "text_config": text,
        "audio_codebook_size": theirs.codebook_size - 2,
        "audio_in_token_idx": theirs.audio_token_id - 1,
        "audio_eos_token_id": theirs.audio_bos_token_id - 1,
        "dtype": theirs.dtype,
    }
    return ours | {name: found[name] for name in OWN_FIELDS if name in found}


def to_original_config(config: Any) -> dict[str, Any]:
    """Convert a :class:`HiggsAudioConfig` to ``config.json`` of the original layout, for Boson's code.

    Every field is written, because the defaults of Boson's code differ from ours. Fields get their older names:
    transformers 4 does not know ``rope_parameters`` and would silently use a theta of 10000.
    """
    fields = config.to_dict()
    dtype = fields["dtype"]
    for part in (fields, fields["text_config"], fields["audio_encoder_config"]):
        for name, default in PreTrainedConfig().to_dict().items():
            if name in ("_name_or_path", "dtype") or part.get(name) == default:
                part.pop(name, None)
        part["torch_dtype"] = dtype
    rope = dict(fields["text_config"].pop("rope_parameters"))
    fields["text_config"] |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    fields["audio_encoder_config"]["model_type"] = "higgs_audio_encoder"
    return fields | {"architectures": ["HiggsAudioModel"]}


def to_transformers_config(config: Any) -> dict[str, Any]:
    """Convert a :class:`HiggsAudioConfig` to ``config.json`` of the transformers layout.

    Raises:
        InputError: listing the features of this model that transformers' class does not have.
    """
    text = config.text_config
    raise_if_any(
        "transformers' Higgs Audio v2 does not have parts of this model; export the original layout",
        _beyond_transformers(config),
    )
    fields = {name: getattr(text, name) for name in TEXT_FIELDS}
    fields |= {their_name: getattr(config, name) for name, their_name in AUDIO_FIELDS}
    fields |= {
        "architectures": ["HiggsAudioV2ForConditionalGeneration"],
        "model_type": HiggsAudioV2Config.model_type,
        "codebook_size": config.codebook_rows,
        "audio_delay_token_id": delay_token_id(config),
        "eos_token_id": config.eot_token_id,
        "tie_word_embeddings": False,
    }
    if config.dtype is not None:
        fields["dtype"] = str(config.dtype).removeprefix("torch.")
    return fields | {name: getattr(config, name) for name in OWN_FIELDS}


def delay_token_id(config: Any) -> int:
    """Return the id of the token with which transformers' ``generate`` ends a clip (128014). Our config lacks it."""
    return config.audio_out_bos_token_id + 1


def _beyond_transformers(config: Any) -> list[str]:
    """Return the features of this model that transformers' class lacks.

    All layers of that class are dual, and it reads codes only.
    """
    layers = config.text_config.num_hidden_layers
    offenders = []
    if not config.skip_audio_tower:
        offenders.append("skip_audio_tower is false: transformers' class has no audio tower")
    if config.encode_whisper_embed:
        offenders.append("encode_whisper_embed is true: transformers' class reads reference clips as codes only")
    if sorted(config.audio_dual_ffn_layers) != list(range(layers)):
        offenders.append(
            f"audio_dual_ffn_layers leaves out some of the {layers} layers: all layers of transformers' class are dual"
        )
    if config.audio_ffn_intermediate_size != config.text_config.intermediate_size:
        offenders.append(
            f"audio_ffn_intermediate_size {config.audio_ffn_intermediate_size}: the audio FFN of transformers' class "
            f"is as wide as its text FFN, {config.text_config.intermediate_size}"
        )
    if delay_token_id(config) in (config.audio_in_token_idx, config.audio_out_token_idx):
        delay = delay_token_id(config)
        offenders.append(f"id {delay}, after <|audio_out_bos|>: transformers' class has its delay token there")
    if not config.use_delay_pattern:
        offenders.append("use_delay_pattern is false: transformers' class always delays the codebooks")
    return offenders


def _is_original(name: str) -> bool:
    return any(_starts_with(name, module) for module in (*(ours for ours, _ in NAMES), *ORIGINAL_ONLY))


def _renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    for old, new in pairs:
        if _starts_with(name, old):
            return new + name.removeprefix(old)
    return None


def _starts_with(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
