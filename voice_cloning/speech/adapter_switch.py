"""Hold one base model and several adapters, and let it speak with one of them, or with none.

    switch = AdapterSwitch(base, {"step 200": first, "step 400": second})
    switch.use("step 200")     # the base with this adapter alone
    switch.use(None)           # the base as it was loaded
    switch.model.generate(...)
    with switch.speaking("step 200") as model:  # nobody can switch meanwhile
        model.generate(...)

The base's weights are held once: an adapter adds only its own factors, when it is used for the first time. Nothing is
merged.
"""

import copy
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from boson_multimodal.errors import InputError, NamedError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from voice_cloning.adapters.export import Adapter

MOST_BYTES = 2 * 2**30
"""What the adapters on the device may take together. docs/adapters.md says what one of them takes."""
BYTES_PER_NUMBER = 4
"""An adapter computes in fp32, whatever the type of its file."""


class AdapterSwitch:
    """A base model with named adapters, of which one or none is in use. After construction none is.

    The adapters that were used stay on the base's device, so a switch copies nothing. If they would take more than
    ``most_bytes`` together, those that were used longest ago are taken off; their next use copies them again. The one
    in use always stays.

    One adapter speaks at a time. Who asks for another one meanwhile, in a thread or within a stream that has not ended,
    gets an error and not the wrong voice.

    Args:
        base: a loaded model in inference mode. It is changed in place: its adapted modules get PEFT's layers around
            them.
        adapters: the adapters by name, in the original layout. ``check_fit`` must have accepted each for this model.
        most_bytes: what the adapters on the device may take together; 0 keeps the one in use alone.

    Attributes:
        model: the base, which computes with the adapter in use.
    """

    def __init__(self, base: HiggsAudioModel, adapters: Mapping[str, Adapter], most_bytes: int = MOST_BYTES) -> None:
        self.model = base
        self.most_bytes = most_bytes
        self._adapters = dict(adapters)
        self._keys: dict[str, str] = {}  # PEFT's names of the adapters on the device, the one used longest ago first
        self._added = 0
        self._in_use: tuple[str | None, float] | None = (None, 1.0)
        self._speakers = 0
        self._changes = threading.Lock()
        self._wrapped: PeftModel | None = None

    @property
    def names(self) -> list[str]:
        """The names of the adapters."""
        return list(self._adapters)

    @property
    def on_device(self) -> list[str]:
        """The names of the adapters that are on the base's device, the one used longest ago first."""
        return list(self._keys)

    def add(self, name: str, adapter: Adapter) -> None:
        """Know an adapter by a name, unless one is known by it. It is put on the base when it is used."""
        self._adapters.setdefault(name, adapter)

    def use(self, name: str | None, scale: float = 1.0) -> HiggsAudioModel:
        """Switch to an adapter, or to the base alone if ``name`` is None. Return the model.

        Args:
            scale: the factor on the adapter's update: 1 as it was trained, 0 the base's logits.

        Raises:
            InputError: if there is no adapter of this name, or if it cannot be scaled so (``Adapter.scale_problem``).
            NamedError: if another one is speaking.
        """
        with self._changes:
            return self._use(name, scale)

    @contextmanager
    def speaking(self, name: str | None, scale: float = 1.0) -> Iterator[HiggsAudioModel]:
        """Switch as :meth:`use`, and give the model for the time of a block, in which nobody else can switch."""
        with self._changes:
            self._use(name, scale)
            self._speakers += 1
        try:
            yield self.model
        finally:
            with self._changes:
                self._speakers -= 1

    def _use(self, name: str | None, scale: float) -> HiggsAudioModel:
        if name is None:
            scale = 1.0
        elif name not in self._adapters:
            raise InputError(f"there is no adapter {name!r}; there are {self.names}")
        elif problem := self._adapters[name].scale_problem(scale):
            raise InputError(f"adapter {name!r}: {problem}")
        if (name, scale) != self._in_use:
            if self._speakers:
                raise NamedError(
                    f"{name or 'the base'} cannot speak while {self._in_use[0] or 'the base'} is speaking: one base "
                    "speaks with one adapter at a time; wait for the end of its speech, or close its stream"
                )
            self._in_use = None  # until the switch is complete
            self._switch_to(name, scale)
            self._in_use = name, scale
        return self.model

    def _switch_to(self, name: str | None, scale: float) -> None:
        if name is None:
            if self._wrapped is not None:
                self._wrapped.base_model.disable_adapter_layers()
            return
        key = self._keys[name] = self._keys.pop(name, None) or self._put_on(name)
        self._wrapped.base_model.enable_adapter_layers()
        self._wrapped.set_adapter(key, inference_mode=True)
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(key, scale)

    def _put_on(self, name: str) -> str:
        """Put an adapter on the base, beside the others. Return its name in PEFT."""
        self._make_room(_bytes_of(self._adapters[name]))
        self._added += 1
        key = f"adapter_{self._added}"  # PEFT makes names of modules from its keys: they must not contain a point
        config = _settings_for_named_modules(self._adapters[name])
        if self._wrapped is None:
            self._wrapped = get_peft_model(self.model, config, adapter_name=key)
        else:
            self._wrapped.add_adapter(key, config)
        set_peft_model_state_dict(self._wrapped, dict(self._adapters[name].tensors), adapter_name=key)
        self._wrapped.eval()
        return key

    def _make_room(self, needed: int) -> None:
        """Take off the adapters that were used longest ago, until there is room for ``needed`` bytes."""
        free = self.most_bytes - sum(_bytes_of(self._adapters[name]) for name in self._keys)
        while self._keys and free < needed:
            name = next(iter(self._keys))
            free += _bytes_of(self._adapters[name])
            if len(self._keys) == 1:
                self._wrapped.unload()  # also takes off PEFT's layers
                self._wrapped = None
            else:
                # PEFT would choose another one in the place of an active adapter, and warn.
                self._wrapped.set_adapter(next(reversed(self._keys.values())), inference_mode=True)
                self._wrapped.delete_adapter(self._keys[name])
            del self._keys[name]


def _bytes_of(adapter: Adapter) -> int:
    return BYTES_PER_NUMBER * sum(tensor.numel() for tensor in adapter.tensors.values())


def _settings_for_named_modules(adapter: Adapter) -> LoraConfig:
    """Return a copy of PEFT's settings that names exactly the adapter's modules.

    The pattern in the settings may also match the factors that an adapter before this one has added.
    """
    config = copy.deepcopy(adapter.config)
    config.base_model_name_or_path = None  # PEFT would warn if the base has another name
    config.target_modules = "|".join(re.escape(module) for module in adapter.modules)
    return config
