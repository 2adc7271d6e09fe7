"""The trained adapter that a new run starts from (``--init_adapter``)."""

import re
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL
from lora_config import HiggsAudioLoRATrainingConfig, print_trainable
from voice_cloning.adapters.export import Adapter, check_fit, read_adapter

FLAG = "--init_adapter"


def read_initial_adapter(folder: Path, wanted: HiggsAudioLoRATrainingConfig) -> Adapter:
    """Read a trained adapter in either layout, and check that it has the settings that the flags ask for.

    Raises:
        InputError: the errors of :func:`read_adapter`, or naming each setting that differs.
    """
    adapter, settings = read_adapter(folder, FLAG), wanted.to_peft()
    differ = [
        f"{name} is {getattr(adapter.config, name)!r}, the flags ask for {getattr(settings, name)!r}"
        for name in ("r", "lora_alpha", "use_rslora", "use_dora")
        if getattr(adapter.config, name) != getattr(settings, name)
    ]
    if differ:
        raise InputError(f"{FLAG} {folder}: {'; '.join(differ)}; give the flags it was trained with")
    return adapter.in_layout(ORIGINAL)


def check_modules(
    adapter: Adapter, folder: Path, wanted: HiggsAudioLoRATrainingConfig, config: HiggsAudioConfig
) -> None:
    """Check that an adapter fits the model and adapts the modules that ``--lora_targets`` names. No weight is loaded.

    The names count, not how they are written: a list of modules and a pattern may mean the same.

    Raises:
        InputError: listing each tensor that does not fit, or each module that only one of the two has.
    """
    check_fit(adapter, config, f"{FLAG} {folder}")
    with torch.device("meta"):
        names = [name for name, _ in HiggsAudioModel(config).named_modules()]
    asked = {name for name in names if re.fullmatch(wanted.to_peft().target_modules, name)}
    found = set(adapter.modules)
    raise_if_any(
        f"{FLAG} {folder}: adapts other modules than --lora_targets {' '.join(wanted.lora_targets)}; give the flags it "
        "was trained with",
        [f"{name}: only in the adapter" for name in sorted(found - asked)]
        + [f"{name}: only in the flags" for name in sorted(asked - found)],
    )


def start_from(base: HiggsAudioModel, adapter: Adapter, wanted: HiggsAudioLoRATrainingConfig) -> PeftModel:
    """Add a checked adapter to the base model for further training."""
    model = get_peft_model(base, wanted.to_peft())
    set_peft_model_state_dict(model, dict(adapter.tensors))
    print_trainable(model)
    return model
