"""Handing an adapter on: under the names of either layout of the model, or merged into the model's weights."""

import copy
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import HiggsAudioV2ForConditionalGeneration

from boson_multimodal.checkpoints import is_hub_id
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import (
    ORIGINAL,
    TRANSFORMERS,
    detect_layout,
    to_original_name,
    to_transformers_name,
)
from lora_config import ADAPTER_CONFIG_FILE, ADAPTER_FILE, TARGET_GROUPS, require_adapter_files

PREFIX = "base_model.model."
"""What PEFT puts before the name of every module that it wraps."""

TARGETS = {
    ORIGINAL: TARGET_GROUPS,
    TRANSFORMERS: {
        "attention": r"model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj",
        "text_mlp": r"model\.layers\.\d+\.mlp\.(gate|up|down)_proj",
        "audio_mlp": r"model\.layers\.\d+\.audio_mlp\.(gate|up|down)_proj",
        "heads": r"(text|audio)_lm_head",
        "audio_embeddings": r"model\.embed_audio_tokens\.embed_audio_tokens",
    },
}
"""Module names by group, as ``lora_config.TARGET_GROUPS``, in each layout."""

MODEL_CLASSES = {ORIGINAL: HiggsAudioModel, TRANSFORMERS: HiggsAudioV2ForConditionalGeneration}

READ_SETTINGS = "r lora_alpha lora_dropout target_modules use_rslora use_dora".split()
NEUTRAL_SETTINGS = "auto_mapping peft_version base_model_name_or_path revision inference_mode task_type".split()
"""Settings that do not enter what an adapter computes: a task type only chooses the arguments of PEFT's wrapper."""
HARMLESS_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base's weights as they are; others (PiSSA, OLoRA, ...) change them."""


@dataclass(frozen=True)
class Adapter:
    """A trained LoRA adapter, away from any model.

    Attributes:
        config: PEFT's settings of it.
        tensors: by the names that PEFT stores them under.
    """

    config: LoraConfig
    tensors: dict[str, Tensor]

    @property
    def modules(self) -> list[str]:
        """Names of the modules that it adapts, as the base model has them."""
        return list(dict.fromkeys(_module_of(name) for name in self.tensors))

    @property
    def layout(self) -> str:
        """Whose names it has. Raises as :func:`detect_layout`."""
        return detect_layout(self.modules)

    @property
    def needs_text_head(self) -> bool:
        """Whether transformers' class must be built with ``use_text_head=True`` to take it."""
        return any(name.split(".")[-1] == "text_lm_head" for name in self.modules)

    def in_layout(self, layout: str) -> "Adapter":
        """The same adapter under the names of ``layout``; the tensors are shared, not copied.

        Raises:
            InputError: listing the tensors that the layout has no place for.
        """
        if layout == self.layout:
            return self
        rename = to_transformers_name if layout == TRANSFORMERS else to_original_name
        tensors, offenders = {}, []
        for name, tensor in self.tensors.items():
            try:
                tensors[PREFIX + rename(name.removeprefix(PREFIX))] = tensor
            except InputError as error:
                offenders.append(str(error))
        raise_if_any(f"the adapter cannot be written in the {layout} layout", offenders)
        config = copy.deepcopy(self.config)
        renamed = Adapter(config, tensors)
        config.target_modules = _targets_in(self.config.target_modules, self.layout, layout, renamed.modules)
        # The commit of a base in one layout holds no base in the other.
        config.revision = None
        return renamed

    def write(self, folder: Path) -> None:
        """Write both files as PEFT reads them; a base that is a folder of this machine is not named."""
        config = copy.deepcopy(self.config)
        config.inference_mode = True
        if not is_hub_id(config.base_model_name_or_path or ""):
            config.base_model_name_or_path = None
        base = MODEL_CLASSES[self.layout]
        config.save_pretrained(
            str(folder), auto_mapping_dict={"base_model_class": base.__name__, "parent_library": base.__module__}
        )
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
        # safetensors writes for its owner's eyes only
        (folder / ADAPTER_FILE).chmod((folder / ADAPTER_CONFIG_FILE).stat().st_mode)


def read_adapter(folder: Path, flag: str = "--adapter") -> Adapter:
    """An adapter in either layout.

    Raises:
        InputError: if it is none, or one whose settings go beyond LoRA as this project trains it (all listed), or
            holds a tensor that is not finite or not named as an adapter's.
    """
    require_adapter_files(folder, flag)
    heading = f"{flag} {folder}"
    try:
        content = json.loads((folder / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / ADAPTER_FILE)
    except ValueError as error:
        raise InputError(f"{heading}: {ADAPTER_CONFIG_FILE} is not JSON ({error}); fetch it again") from error
    except SafetensorError as error:
        raise InputError(f"{heading}: {ADAPTER_FILE} is damaged ({error}); fetch it again") from error
    kind = content.get("peft_type") if isinstance(content, dict) else None
    if kind != "LORA":
        raise InputError(f"{heading}: {ADAPTER_CONFIG_FILE} has peft_type {kind!r}; it must be LORA")
    config = LoraConfig.from_pretrained(str(folder))
    raise_if_any(f"{heading}: settings beyond LoRA as it is trained here", _beyond_plain_lora(config, content))
    offenders = [f"{name}: not named as a tensor of a LoRA adapter" for name in tensors if not _is_adapter_name(name)]
    offenders += [f"{name}: not finite" for name, tensor in tensors.items() if not tensor.isfinite().all()]
    raise_if_any(f"{heading}: {ADAPTER_FILE}", offenders or ([] if tensors else ["holds no tensors"]))
    config.task_type = None
    adapter = Adapter(config, tensors)
    try:
        detect_layout(adapter.modules)
    except InputError as error:
        raise InputError(f"{heading}: {error}") from error
    return adapter


def check_fit(adapter: Adapter, config: HiggsAudioConfig, heading: str) -> None:
    """Whether an adapter in the original layout is one of this model; loads no weight.

    Raises:
        InputError: listing each tensor that the model has no place for, lacks, or has in another shape.
    """
    with torch.device("meta"):
        model = HiggsAudioModel(config)
    try:
        wrapped = _wrap(model, adapter.config)
    except ValueError as error:  # no module is named, or one that LoRA cannot adapt
        raise InputError(f"{heading}: {error}") from error
    wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    offenders = []
    for name in sorted(wanted.keys() | adapter.tensors.keys()):
        bare = name.removeprefix(PREFIX)
        if name not in wanted:
            offenders.append(f"{bare}: the model has no such module, or target_modules does not name it")
        elif name not in adapter.tensors:
            offenders.append(f"{bare}: missing from {ADAPTER_FILE}")
        elif adapter.tensors[name].shape != wanted[name].shape:
            found, right = tuple(adapter.tensors[name].shape), tuple(wanted[name].shape)
            offenders.append(f"{bare}: has shape {found}, the model asks for {right}")
    raise_if_any(f"{heading}: was trained on another model", offenders)


def apply_adapter(base: HiggsAudioModel, adapter: Adapter) -> PeftModel:
    """Put an adapter that :func:`check_fit` accepts on the base; it computes in fp32, whatever type it is stored in."""
    model = _wrap(base, adapter.config)
    set_peft_model_state_dict(model, dict(adapter.tensors))
    return model.eval()


@torch.no_grad()
def merge_adapter(model: PeftModel, dtype: torch.dtype) -> HiggsAudioModel:
    """Fold the adapter into the base's weights, in place, and give the base, with all its weights in ``dtype``.

    Module by module the weight is widened to fp32, PEFT adds to it what the adapter's kind asks for (rsLoRA's scale,
    DoRA's norms, an embedding's transposed factors), and the sum is rounded once. On a bf16 weight PEFT would round an
    embedding's update before it adds it.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            weight = module.get_base_layer().weight
            weight.data = weight.data.float()
            module.merge()
            weight.data = weight.data.to(dtype)
    base = model.unload()
    for parameter in base.parameters():
        parameter.data = parameter.data.to(dtype)
    return base


def _wrap(base: HiggsAudioModel, config: LoraConfig) -> PeftModel:
    """A fresh adapter on the base; the settings are copied, for PEFT writes into them."""
    config = copy.deepcopy(config)
    config.base_model_name_or_path = None  # PEFT warns of every base but the one that was trained on
    return get_peft_model(base, config)


def _beyond_plain_lora(config: LoraConfig, stored: dict[str, Any]) -> list[str]:
    """Settings that are not what they are by default, apart from those that this module reads or need not read."""
    usual = LoraConfig().to_dict()
    values = {**stored, **config.to_dict()}
    read = {*READ_SETTINGS, *NEUTRAL_SETTINGS, "init_lora_weights", "peft_type"}
    offenders = [
        f"{name} is {value!r}, not {usual.get(name)!r}"
        for name, value in values.items()
        if name not in read and value != usual.get(name)
    ]
    if config.init_lora_weights not in HARMLESS_INITIALISATIONS:
        offenders.append(f"init_lora_weights is {config.init_lora_weights!r}, which changes the base's weights")
    return offenders


def _targets_in(targets: Any, old: str, new: str, modules: Iterable[str]) -> str:
    """``target_modules`` in another layout: the same groups, else a pattern of just these modules."""
    groups, rest = [], targets if isinstance(targets, str) else None
    while rest:
        found = [group for group, pattern in TARGETS[old].items() if f"{rest}|".startswith(f"({pattern})|")]
        if not found:
            break
        groups.append(found[0])
        rest = rest.removeprefix(f"({TARGETS[old][found[0]]})").removeprefix("|")
    if groups and not rest:
        return "|".join(f"({TARGETS[new][group]})" for group in groups)
    return "|".join(re.escape(module) for module in modules)


def _is_adapter_name(name: str) -> bool:
    return name.startswith(PREFIX) and ".lora_" in name


def _module_of(name: str) -> str:
    return name.removeprefix(PREFIX).split(".lora_")[0]
