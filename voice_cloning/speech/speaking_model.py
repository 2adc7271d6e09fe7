"""Loads a base model for speech, once for all who speak with it, and reads the adapters on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED, require_quantisation
from lora_config import load_base_model
from voice_cloning.adapters.export import Adapter, check_fit, read_adapter
from voice_cloning.speech.adapter_run import quantisation_of_adapter
from voice_cloning.speech.adapter_switch import MOST_BYTES, AdapterSwitch


@dataclass(frozen=True)
class BaseWeights:
    """Which weights a base has, in which form and where. Those who have equal ones can share them.

    Attributes:
        folder: the checkpoint, resolved.
        dtype: of the weights.
        quantise: that of the trainer.
    """

    folder: Path
    device: torch.device
    dtype: torch.dtype
    quantise: str


class HeldModel:
    """The weights of one base model, loaded once for all adapters on it.

    Args:
        most_bytes: what the adapters on the device may take together (:class:`AdapterSwitch`). 0 is right for work that
            goes from adapter to adapter: only the one in use takes memory.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._weights: BaseWeights | None = None
        self._switch: AdapterSwitch | None = None

    def switch_of(self, weights: BaseWeights, load: Callable[[], HiggsAudioModel]) -> AdapterSwitch:
        """Return the switch of a base. If it is not the one that is held, that one is freed, and ``load`` is called."""
        if not self.holds(weights):
            self.free()  # before the next one is loaded
            self._switch = AdapterSwitch(load(), {}, self.most_bytes)
            self._weights = weights
        return self._switch

    def holds(self, weights: BaseWeights) -> bool:
        """Whether these weights are loaded."""
        return self._weights == weights

    def free(self) -> None:
        """Forget the weights."""
        self._weights = self._switch = None


def fitting_adapter(folder: Path, config: HiggsAudioConfig) -> Adapter:
    """Read a trained adapter in either layout, and check that it fits a model of this configuration.

    Raises:
        InputError: if the folder has no LoRA adapter or a damaged one, or naming each tensor that does not fit.
    """
    adapter = read_adapter(folder).in_layout(ORIGINAL)
    check_fit(adapter, config, f"--adapter {folder}")
    return adapter


def load_speaking_model(
    folder: Path, device: torch.device, torch_dtype: torch.dtype, quantise: str = NOT_QUANTISED
) -> HiggsAudioModel:
    """Load the checkpoint in inference mode. ``quantise`` is that of the trainer."""
    return load_base_model(folder, {"": device}, torch_dtype, False, quantise).eval()


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
