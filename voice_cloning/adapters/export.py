"""Read and write LoRA adapters in either layout of the model, and merge them into the model's weights."""

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
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
from boson_multimodal.model.higgs_audio.quantised_weights import is_quantised
from lora_config import ADAPTER_CONFIG_FILE, ADAPTER_FILE, TARGET_GROUPS
from voice_cloning.adapters.adapter_files import (
    PREFIX,
    module_of,
    read_settings,
    read_tensors,
    require_adapter_files,
)

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
"""For each layout, the patterns of module names by group (like ``lora_config.TARGET_GROUPS``)."""

LARGEST_SCALE = 2.0
"""The largest factor of an adapter's product (``Adapter.scale_problem``)."""

MODEL_CLASSES = {ORIGINAL: HiggsAudioModel, TRANSFORMERS: HiggsAudioV2ForConditionalGeneration}


@dataclass(frozen=True)
class Adapter:
    """A trained LoRA adapter without a model.

    Attributes:
        config: PEFT's settings of the adapter.
        tensors: the tensors by their names in PEFT's file.
    """

    config: LoraConfig
    tensors: dict[str, Tensor]

    @property
    def modules(self) -> list[str]:
        """The names of the adapted modules in the base model."""
        return list(dict.fromkeys(map(module_of, self.tensors)))

    @property
    def layout(self) -> str:
        """The layout of the adapter's names. Raises the errors of :func:`detect_layout`."""
        return detect_layout(self.modules)

    @property
    def needs_text_head(self) -> bool:
        """Whether the adapter needs transformers' class with ``use_text_head=True``."""
        return any(name.split(".")[-1] == "text_lm_head" for name in self.modules)

    def in_layout(self, layout: str) -> "Adapter":
        """Return the adapter with the names of ``layout``. The tensors are shared, not copied.

        Raises:
            InputError: listing the tensors that do not exist in the layout.
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
        # The recorded commit of the base has the old layout only.
        config.revision = None
        return renamed

    def scale_problem(self, scale: float) -> str | None:
        """Return why the LoRA product cannot be multiplied by ``scale``; None if it can: from 0 to ``LARGEST_SCALE``.

        0 is the base, without the adapter; 1 is the adapter as trained, bit for bit. All adapted modules are scaled:
        attention, FFNs, heads, embeddings. An adapter with DoRA is no product alone: it can only be as trained.
        """
        if not 0.0 <= scale <= LARGEST_SCALE:
            return (
                f"adapter_scale is {scale}; it must be from 0 (the base) to {LARGEST_SCALE:g} (beyond that, an "
                "adapter is far from anything that was trained)"
            )
        if scale != 1.0 and self.config.use_dora:
            return (
                f"adapter_scale is {scale}: the adapter was trained with DoRA. Its magnitudes replace those of the "
                "base and are no product that could be scaled; give 1, or take an earlier checkpoint"
            )
        return None

    def check_scale(self, scale: float, heading: str) -> None:
        """Raise :class:`InputError`, which begins with ``heading``, if the adapter cannot be scaled so."""
        if problem := self.scale_problem(scale):
            raise InputError(f"{heading}: {problem}")

    def write(self, folder: Path) -> None:
        """Write both files in PEFT's format. The base's name is written only if it is a hub id."""
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
        # safetensors lets only the owner read its files
        (folder / ADAPTER_FILE).chmod((folder / ADAPTER_CONFIG_FILE).stat().st_mode)


def read_adapter(folder: Path, flag: str = "--adapter") -> Adapter:
    """Read an adapter in either layout. This is the only way in: no weight of a base is loaded before it.

    Raises:
        InputError: if the folder does not hold a LoRA adapter, or listing the settings that are wrong or that this
            project does not support, or the tensors that are damaged or do not have the name of an adapter's tensor.
    """
    require_adapter_files(folder, flag)
    settings = read_settings(folder, flag)
    adapter = Adapter(settings, read_tensors(folder, flag, settings))
    try:
        detect_layout(adapter.modules)
    except InputError as error:
        raise InputError(f"{flag} {folder}: {error}") from error
    return adapter


def check_fit(adapter: Adapter, config: HiggsAudioConfig, heading: str) -> None:
    """Check that an adapter in the original layout fits a model of this configuration. No weight is loaded.

    Raises:
        InputError: listing each tensor that is missing, or unexpected, or has another shape than the model needs.
    """
    with torch.device("meta"):
        model = HiggsAudioModel(config)
    try:
        wrapped = _wrap(model, adapter.config)
    except ValueError as error:  # target_modules matches no module, or one that LoRA cannot adapt
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
            offenders.append(f"{bare}: has shape {found}, the model needs {right}")
    raise_if_any(f"{heading}: was trained on another model", offenders)


def check_scale_is_used(scale: float, has_adapter: bool) -> None:
    """Raise :class:`InputError` if a scale is given, and no adapter that it could weaken."""
    if scale != 1.0 and not has_adapter:
        raise InputError(f"--adapter_scale {scale}: there is no --adapter to weaken; give one")


def apply_adapter(base: HiggsAudioModel, adapter: Adapter) -> PeftModel:
    """Apply an adapter to the base. It always computes in fp32. :func:`check_fit` must have accepted the adapter."""
    model = _wrap(base, adapter.config)
    set_peft_model_state_dict(model, dict(adapter.tensors))
    return model.eval()


@torch.no_grad()
def merge_adapter(model: PeftModel, dtype: torch.dtype) -> HiggsAudioModel:
    """Merge the adapter into the base's weights in place, and return the base with all its weights in ``dtype``.

    For each module, the weight is converted to fp32, PEFT merges the adapter into it (it knows rsLoRA's scale, DoRA's
    norms and an embedding's transposed factors), and the result is rounded once. With a bf16 weight, PEFT would already
    round an embedding's update before the addition.

    Raises:
        InputError: if the base's weights are quantised. The sum would be quantised again.
    """
    if any(isinstance(module, nn.Linear) and is_quantised(module) for module in model.modules()):
        raise InputError("the base's weights are quantised; merge the adapter into a base in full precision")
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
    """Add an adapter to the base. The settings are copied, because PEFT changes them."""
    config = copy.deepcopy(config)
    config.base_model_name_or_path = None  # PEFT would warn if the base has another name
    return get_peft_model(base, config)


def _targets_in(targets: Any, old: str, new: str, modules: Iterable[str]) -> str:
    """Translate ``target_modules`` to another layout: to the same groups, or else to a pattern of these modules."""
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
