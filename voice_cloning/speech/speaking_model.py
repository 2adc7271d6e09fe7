"""Loads a model with an adapter for speech."""

from pathlib import Path

import torch

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED, require_quantisation
from lora_config import load_base_model
from voice_cloning.adapters.export import Adapter, apply_adapter, check_fit, read_adapter
from voice_cloning.speech.adapter_run import quantisation_of_adapter


def fitting_adapter(folder: Path, config: HiggsAudioConfig, scale: float = 1.0) -> Adapter:
    """Read a trained adapter in either layout, check that it fits a model of this configuration, and scale it.

    Raises:
        InputError: if the folder has no LoRA adapter or a damaged one, or naming each tensor that does not fit, or if
            the adapter cannot be scaled.
    """
    adapter = read_adapter(folder).in_layout(ORIGINAL)
    check_fit(adapter, config, f"--adapter {folder}")
    return adapter.scaled(scale, f"--adapter {folder}")


def load_speaking_model(
    folder: Path,
    adapter: Adapter | None,
    device: torch.device,
    torch_dtype: torch.dtype,
    quantise: str = NOT_QUANTISED,
) -> HiggsAudioModel:
    """Load the checkpoint in inference mode and apply an adapter to it. ``quantise`` is that of the trainer.

    The adapter is not merged, because merging in bfloat16 would round the sum of both weights.
    """
    base = load_base_model(folder, {"": device}, torch_dtype, False, quantise)
    if adapter is not None:
        base = apply_adapter(base, adapter).get_base_model()
    return base.eval()


def usable_quantisation(wanted: str | None, adapter: Path | None, device: torch.device) -> str:
    """Return the wanted quantisation, or the one with which an adapter was trained if that is None.

    Raises:
        InputError: if it cannot be computed on this device.
    """
    quantise = wanted or quantisation_of_adapter(adapter)
    try:
        require_quantisation(quantise, device)
    except InputError as error:
        if wanted is not None:
            raise
        raise InputError(
            f"--adapter {adapter} was trained with --quantise {quantise}. {error}. Or give --quantise {NOT_QUANTISED}: "
            "weights in full precision, with which the adapter was not trained"
        ) from error
    return quantise
