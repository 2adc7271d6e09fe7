"""LoRA for Higgs Audio v2: the settings of an adapter, and functions that create one."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict

from boson_multimodal.errors import InputError
from boson_multimodal.flags import flag
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
"""PEFT's file names for an adapter's weights and settings."""

TARGET_GROUPS = {
    "attention": r"layers\.\d+\.self_attn\.(q|k|v|o)_proj",
    "text_mlp": r"layers\.\d+\.mlp\.(gate|up|down)_proj",
    "audio_mlp": r"layers\.\d+\.audio_mlp\.(gate|up|down)_proj",
    "heads": r"audio_decoder_proj\.(text|audio)_lm_head",
    "audio_embeddings": r"audio_codebook_embeddings",
}
"""Patterns of module names by group. PEFT matches whole names, so the ``layers`` of an audio tower never match."""


@dataclass(kw_only=True)
class HiggsAudioLoRATrainingConfig:
    """Settings of the adapter.

    Attributes:
        lora_rank: rank r of the two factors.
        lora_alpha: the update is scaled by alpha / r (alpha / sqrt(r) with rsLoRA).
        lora_dropout: dropout before the first factor.
        lora_targets: groups of modules to adapt (``TARGET_GROUPS``).
        use_rslora, use_dora: PEFT's variants (arXiv:2312.03732, arXiv:2402.09353).
    """

    lora_rank: int = flag(16, "Rank of the adapter.")
    lora_alpha: float = flag(32.0, "The update is scaled by lora_alpha / lora_rank.")
    lora_dropout: float = flag(0.0, "Dropout on the adapter's input.")
    lora_targets: list[str] = flag(
        ["attention", "audio_mlp", "text_mlp"],
        f"Groups of modules that get an adapter. The groups are: {', '.join(TARGET_GROUPS)}.",
    )
    use_rslora: bool = flag(False, "Scale by lora_alpha / sqrt(lora_rank) instead.")
    use_dora: bool = flag(False, "Weight-decomposed LoRA: slower, sometimes better.")

    _argument_group_name = "adapter"

    def __post_init__(self) -> None:
        if self.lora_rank < 1:
            raise InputError(f"lora_rank is {self.lora_rank}; it must be at least 1")
        if not self.lora_alpha > 0:
            raise InputError(f"lora_alpha is {self.lora_alpha}; it must be above 0")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise InputError(f"lora_dropout is {self.lora_dropout}; it must be in [0, 1)")
        unknown = [group for group in self.lora_targets if group not in TARGET_GROUPS]
        if unknown or not self.lora_targets:
            raise InputError(f"lora_targets is {self.lora_targets}; it must name some of {list(TARGET_GROUPS)}")

    def to_peft(self) -> LoraConfig:
        """Return PEFT's configuration. It has no task type, because a causal-LM wrapper would pass ``labels``."""
        return LoraConfig(
            r=self.lora_rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules="|".join(f"({TARGET_GROUPS[group]})" for group in self.lora_targets),
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            bias="none",
        )


@dataclass(frozen=True)
class AdapterForm:
    """What is known of an adapter before it is trained.

    Attributes:
        tensors: the shapes of the tensors in its file, by name.
        parameters: the shapes of the trained parameters, in the order of the model.
        settings: the fields of ``adapter_config.json`` that determine what it computes.
    """

    tensors: dict[str, torch.Size]
    parameters: list[torch.Size]
    settings: dict[str, Any]


def adapter_form(config: HiggsAudioConfig, lora_config: HiggsAudioLoRATrainingConfig) -> AdapterForm:
    """Return the form of an adapter of a model of this configuration. No weight is loaded."""
    peft_config = lora_config.to_peft()
    with torch.device("meta"):
        model = get_peft_model(HiggsAudioModel(config), peft_config)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    names = ("peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "bias")
    return AdapterForm(
        tensors={name: tensor.shape for name, tensor in state.items()},
        parameters=[parameter.shape for parameter in model.parameters() if parameter.requires_grad],
        settings={name: getattr(peft_config, name) for name in names},
    )


def create_higgs_audio_lora_model(
    model_path: str | Path,
    custom_config: HiggsAudioLoRATrainingConfig | None = None,
    device_map: str | dict[str, torch.device] = "cpu",
    torch_dtype: torch.dtype = torch.bfloat16,
    enable_gradient_checkpointing: bool = False,
    quantise: str = NOT_QUANTISED,
) -> tuple[PeftModel, HiggsAudioConfig, LoraConfig]:
    """Load a checkpoint and add a new adapter to it. The adapter's weights are always fp32.

    The number of trainable parameters is printed. ``quantise`` is that of ``HiggsAudioModel.from_pretrained``.

    Returns:
        (model, its configuration, PEFT's configuration).

    Raises:
        InputError: if the checkpoint's tensors do not fit, ``torch_dtype`` is fp16, or the quantisation cannot work.
    """
    base = load_base_model(model_path, device_map, torch_dtype, enable_gradient_checkpointing, quantise)
    peft_config = (custom_config or HiggsAudioLoRATrainingConfig()).to_peft()
    model = get_peft_model(base, peft_config)
    print_trainable(model)
    return model, base.config, peft_config


def load_base_model(
    model_path: str | Path,
    device_map: str | dict[str, torch.device],
    torch_dtype: torch.dtype,
    enable_gradient_checkpointing: bool = False,
    quantise: str = NOT_QUANTISED,
) -> HiggsAudioModel:
    """Load the checkpoint with frozen weights. Raise the errors of :func:`create_higgs_audio_lora_model`."""
    if torch_dtype == torch.float16:
        raise InputError("torch_dtype float16: it overflows in this model; use bfloat16, or float32 on CPU")
    base = HiggsAudioModel.from_pretrained(model_path, dtype=torch_dtype, device_map=device_map, quantise=quantise)
    base.requires_grad_(False)
    if enable_gradient_checkpointing:
        enable_checkpointing(base)
    return base


def enable_checkpointing(base: HiggsAudioModel) -> None:
    """Let the plain layers compute their activations again in the backward pass."""
    # transformers 5.24 has a new name for it.
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def print_trainable(model: PeftModel) -> None:
    """Print the numbers of trainable and of all parameters, on rank 0 only."""
    if int(os.environ.get("RANK", 0)) == 0:
        trainable, total = model.get_nb_trainable_parameters()
        print(f"trainable parameters: {trainable:,} of {total:,} ({100 * trainable / total:.2f} %)")
