"""Hold one base model and several adapters, and let it speak with one of them, or with none.

    switch = AdapterSwitch(base, {"step 200": first, "step 400": second})
    switch.use("step 200")     # the base with this adapter alone
    switch.use(None)           # the base as it was loaded
    switch.model.generate(...)

The base's weights are held once: an adapter adds only its own factors. Nothing is merged.
"""

import copy
import re
from collections.abc import Mapping

from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from voice_cloning.adapters.export import Adapter


class AdapterSwitch:
    """A base model with named adapters, of which one or none is in use. After construction none is.

    Not thread-safe: whoever speaks must be the only one who calls :meth:`use`.

    Args:
        base: a loaded model. It is changed in place: its adapted modules get PEFT's layers around them.
        adapters: the adapters by name, in the original layout. ``check_fit`` must have accepted each for this model.

    Attributes:
        model: the base, which computes with the adapter in use.
    """

    def __init__(self, base: HiggsAudioModel, adapters: Mapping[str, Adapter]) -> None:
        self.model = base.eval()
        self._adapters = dict(adapters)
        # PEFT makes names of modules from its keys: they must not contain a point.
        self._keys = {name: f"adapter_{number}" for number, name in enumerate(adapters)}
        self._wrapped: PeftModel | None = None
        for name, adapter in adapters.items():
            self._add(self._keys[name], adapter)
        self.use(None)

    @property
    def names(self) -> list[str]:
        """The names of the adapters."""
        return list(self._keys)

    def use(self, name: str | None, scale: float = 1.0) -> HiggsAudioModel:
        """Switch to an adapter, or to the base alone if ``name`` is None. Return the model.

        Args:
            scale: the factor on the adapter's update: 1 as it was trained, 0 the base's logits.

        Raises:
            InputError: if there is no adapter of this name, or if it cannot be scaled so (``Adapter.scale_problem``).
        """
        if name is None:
            if self._wrapped is not None:
                self._wrapped.base_model.disable_adapter_layers()
            return self.model
        if name not in self._keys:
            raise InputError(f"there is no adapter {name!r}; there are {self.names}")
        if problem := self._adapters[name].scale_problem(scale):
            raise InputError(f"adapter {name!r}: {problem}")
        key = self._keys[name]
        self._wrapped.base_model.enable_adapter_layers()
        self._wrapped.set_adapter(key, inference_mode=True)
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(key, scale)
        return self.model

    def _add(self, key: str, adapter: Adapter) -> None:
        config = _settings_for_named_modules(adapter)
        if self._wrapped is None:
            self._wrapped = get_peft_model(self.model, config, adapter_name=key)
        else:
            self._wrapped.add_adapter(key, config)
        set_peft_model_state_dict(self._wrapped, dict(adapter.tensors), adapter_name=key)
        self._wrapped.eval()


def _settings_for_named_modules(adapter: Adapter) -> LoraConfig:
    """Return a copy of PEFT's settings that names exactly the adapter's modules.

    The pattern in the settings may also match the factors that an adapter before this one has added.
    """
    config = copy.deepcopy(adapter.config)
    config.base_model_name_or_path = None  # PEFT would warn if the base has another name
    config.target_modules = "|".join(re.escape(module) for module in adapter.modules)
    return config
