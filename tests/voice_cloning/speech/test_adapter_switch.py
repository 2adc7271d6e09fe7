"""Several adapters on one base: each computes as if it were alone, and the base as if there were none."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from boson_multimodal.errors import InputError, NamedError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL
from boson_multimodal.model.higgs_audio.quantised_weights import NF4
from tests.exported_adapters import EVERY_GROUP, random_adapter, tiny_model
from tests.quantised_models import needs_bitsandbytes, save_model, wide_config
from voice_cloning.adapters.export import apply_adapter
from voice_cloning.adapters.logit_comparison import Logits, fixed_batch, our_logits
from voice_cloning.speech.adapter_switch import AdapterSwitch
from voice_cloning.speech.speaking_model import fitting_adapter, load_speaking_model

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    "every group": {"lora_targets": EVERY_GROUP},
    "attention": {"lora_rank": 2, "lora_alpha": 9.0, "lora_targets": ["attention"]},
    "heads.and/embeddings": {"lora_rank": 3, "lora_targets": ["heads", "audio_embeddings"]},
    "rslora": {"lora_rank": 8, "use_rslora": True, "lora_targets": ["audio_mlp", "heads"]},
    "dora": {"lora_rank": 5, "use_dora": True, "lora_targets": ["attention", "text_mlp", "audio_embeddings"]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of the base under "base", and that of each adapter by its name."""
    torch.manual_seed(1)
    root = tmp_path_factory.mktemp("adapters")
    tiny_model(root / "base")
    base = {"base": root / "base"}
    return base | {
        name: random_adapter(root / str(n), HiggsAudioModel.from_pretrained(root / "base"), **settings)
        for n, (name, settings) in enumerate(VARIANTS.items())
    }


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> dict[str | None, Logits]:
    """The logits of the base, and of each adapter loaded alone."""
    found: dict[str | None, Logits] = {None: logits(load_speaking_model(folders["base"], CPU, torch.float32))}
    for name in VARIANTS:
        base = load_speaking_model(folders["base"], CPU, torch.float32)
        found[name] = logits(apply_adapter(base, adapter(folders, name)).get_base_model())
    return found


@pytest.fixture(scope="module")
def switch(folders: dict[str, Path]) -> AdapterSwitch:
    base = load_speaking_model(folders["base"], CPU, torch.float32)
    return AdapterSwitch(base, {name: adapter(folders, name) for name in VARIANTS})


def adapter(folders: dict[str, Path], name: str) -> Any:
    return fitting_adapter(folders[name], HiggsAudioModel.from_pretrained(folders["base"]).config)


def logits(model: HiggsAudioModel) -> Logits:
    return our_logits(model, fixed_batch(model.config))


def is_equal(one: Logits, other: Logits) -> bool:
    """Bit for bit."""
    return all(torch.equal(values, other.heads()[head]) for head, values in one.heads().items())


def test_each_adapter_and_the_base_compute_as_if_they_were_alone(
    switch: AdapterSwitch, alone: dict[str | None, Logits]
) -> None:
    assert len({our.audio_CKV.sum().item() for our in alone.values()}) == len(alone)  # they differ
    for name in ["dora", None, "every group", "attention", "attention", None, *reversed(VARIANTS), None]:
        assert is_equal(logits(switch.use(name)), alone[name]), name
    assert switch.names == list(VARIANTS)
    assert not any(parameter.requires_grad for parameter in switch.model.parameters())


def test_the_base_is_held_once(switch: AdapterSwitch, folders: dict[str, Path]) -> None:
    base = sum(p.numel() for p in HiggsAudioModel.from_pretrained(folders["base"]).parameters())
    for name in VARIANTS:
        switch.use(name)
    factors = sum(tensor.numel() for name in VARIANTS for tensor in adapter(folders, name).tensors.values())
    assert sum(parameter.numel() for parameter in switch.model.parameters()) == base + factors


def test_a_pattern_that_fits_factors_too_adds_no_module(folders: dict[str, Path], tmp_path: Path) -> None:
    """Such a pattern matches ``q_proj.base_layer`` as soon as another adapter has been added."""
    broad = LoraConfig(r=2, target_modules=r"layers\.\d+\.self_attn\..*", init_lora_weights=False)
    get_peft_model(HiggsAudioModel.from_pretrained(folders["base"]), broad).save_pretrained(tmp_path)
    files = {**folders, "broad": tmp_path}
    both = {name: adapter(files, name) for name in ("attention", "broad")}
    switch = AdapterSwitch(load_speaking_model(folders["base"], CPU, torch.float32), both)
    base = load_speaking_model(folders["base"], CPU, torch.float32)
    assert is_equal(logits(switch.model), logits(base))  # none is in use at first
    wanted = apply_adapter(base, both["broad"]).get_base_model()
    assert is_equal(logits(switch.use("broad")), logits(wanted))


def test_the_scale_weakens_one_adapter_until_it_is_used_again(
    switch: AdapterSwitch, alone: dict[str | None, Logits]
) -> None:
    for name in ("every group", "rslora"):
        whole, half, none = (logits(switch.use(name, scale)).audio_CKV for scale in (1.0, 0.5, 0.0))
        base = alone[None].audio_CKV
        assert torch.equal(none, base)
        assert 0 < (half - base).norm() < (whole - base).norm()
        assert is_equal(logits(switch.use(name)), alone[name])


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("absent", 1.0, r"there is no adapter 'absent'; there are \['every group', 'attention'"),
        ("attention", -0.5, "adapter 'attention': adapter_scale is -0.5; it must be from 0"),
        ("attention", float("nan"), "adapter_scale is nan"),
        ("attention", float("inf"), "adapter_scale is inf"),
        ("attention", 2.5, r"adapter_scale is 2.5; it must be from 0 \(the base\) to 2"),
        ("dora", 0.5, "adapter 'dora': adapter_scale is 0.5: the adapter was trained with DoRA"),
    ],
)
def test_what_cannot_be_used(switch: AdapterSwitch, name: str, scale: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        switch.use(name, scale)


def test_without_adapters_there_is_the_base(folders: dict[str, Path], alone: dict[str | None, Logits]) -> None:
    switch = AdapterSwitch(load_speaking_model(folders["base"], CPU, torch.float32), {})
    assert is_equal(logits(switch.use(None)), alone[None])


def test_adapters_used_longest_ago_are_taken_off_and_speak_the_same_when_they_are_back(
    folders: dict[str, Path], alone: dict[str | None, Logits], recwarn: pytest.WarningsRecorder
) -> None:
    adapters = {name: adapter(folders, name) for name in VARIANTS}
    sizes = {name: 4 * sum(t.numel() for t in one.tensors.values()) for name, one in adapters.items()}
    for most in (0, sizes["rslora"] + sizes["dora"], 2**40):
        switch = AdapterSwitch(load_speaking_model(folders["base"], CPU, torch.float32), adapters, most)
        for name in ["rslora", "dora", None, "attention", "rslora", "every group", None, "dora", "rslora", None]:
            assert is_equal(logits(switch.use(name)), alone[name]), (most, name)
            assert name is None or switch.on_device[-1] == name
            assert len(switch.on_device) == 1 or sum(sizes[held] for held in switch.on_device) <= most
            parameters = sum(p.numel() for p in switch.model.parameters() if p.dtype == torch.float32)
            base = sum(p.numel() for p in HiggsAudioModel.from_pretrained(folders["base"]).parameters())
            assert 4 * (parameters - base) == sum(sizes[held] for held in switch.on_device)
    assert not [str(warning.message) for warning in recwarn if "dapter" in str(warning.message)]


def test_adapters_that_are_not_in_use_cost_no_operation(folders: dict[str, Path]) -> None:
    class Counted(TorchDispatchMode):
        """Counts the operations by name."""

        def __init__(self) -> None:
            super().__init__()
            self.names: Counter[str] = Counter()

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names[str(function)] += 1
            return function(*args, **(kwargs or {}))

    counts: list[Counter[str]] = []
    for names in (["rslora"], list(VARIANTS)):
        base = load_speaking_model(folders["base"], CPU, torch.float32)
        switch = AdapterSwitch(base, {name: adapter(folders, name) for name in names})
        for name in names:
            switch.use(name)
        for name in ("rslora", None):
            with Counted() as counted:
                logits(switch.use(name))
            counts.append(counted.names)
    assert counts[:2] == counts[2:] and counts[0] != counts[1] and counts[0].total() > 100


@needs_bitsandbytes
def test_on_a_quantised_base_each_adapter_speaks_as_if_it_were_alone(tmp_path: Path) -> None:
    save_model(wide_config(), tmp_path, [ORIGINAL])
    base = tmp_path / ORIGINAL
    full = HiggsAudioModel.from_pretrained(base)
    adapters = {}
    for name, settings in VARIANTS.items():
        folder = random_adapter(tmp_path / name.replace("/", "_"), HiggsAudioModel.from_pretrained(base), **settings)
        adapters[name] = fitting_adapter(folder, full.config)
    quantised = CPU, torch.float32, NF4
    alone = {None: logits(load_speaking_model(base, *quantised))}
    for name, one in adapters.items():
        alone[name] = logits(apply_adapter(load_speaking_model(base, *quantised), one).get_base_model())
    switch = AdapterSwitch(load_speaking_model(base, *quantised), adapters)
    for name in [None, *VARIANTS, None, "dora", "attention"]:
        assert is_equal(logits(switch.use(name)), alone[name]), name


def test_nobody_switches_while_one_is_speaking(switch: AdapterSwitch, alone: dict[str | None, Logits]) -> None:
    with switch.speaking("attention") as model, switch.speaking("attention"):
        with pytest.raises(NamedError, match="rslora cannot speak while attention is speaking: .* or close its stream"):
            switch.use("rslora")
        with (
            pytest.raises(NamedError, match="the base cannot speak while attention is speaking"),
            switch.speaking(None),
        ):
            pass
        with pytest.raises(NamedError, match="attention cannot speak"):
            switch.use("attention", 0.5)
        assert is_equal(logits(model), alone["attention"])
    with pytest.raises(KeyError), switch.speaking("attention"):
        raise KeyError
    assert is_equal(logits(switch.use("rslora")), alone["rslora"])
