"""Test how a checkpoint becomes a model with 4-bit weights, and what such a model computes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel, quantised_weights
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS, ORIGINAL, TRANSFORMERS
from boson_multimodal.model.higgs_audio.quantised_weights import (
    NF4,
    check_widths,
    dequantised,
    dequantised_by,
    is_quantised,
    linears_of_layers,
    quantise_weight,
    require_quantisation,
)
from lora_config import TARGET_GROUPS, HiggsAudioLoRATrainingConfig, load_base_model
from tests.native_oracle import tiny_config
from tests.quantised_models import (
    fill_adapter,
    in_full_precision,
    largest_error,
    loss_and_gradients,
    needs_bitsandbytes,
    random_batch,
    save_model,
    wide_config,
)
from tests.tower_models import config_with_tower
from tests.training_runs import ENVIRONMENT, PROJECT
from voice_cloning.adapters.export import merge_adapter

pytestmark = needs_bitsandbytes

FORMS = {
    "released form": ({}, LAYOUTS),
    "another width of the audio FFN": ({"audio_ffn_intermediate_size": 192}, [ORIGINAL]),
    "layers that audio skips": ({"audio_dual_ffn_layers": [0, 2]}, [ORIGINAL]),
    "layers with one FFN": ({"audio_dual_ffn_layers": [1], "audio_adapter_type": "dual_ffn"}, [ORIGINAL]),
}
"""Changes of the configuration, and the layouts that have this form."""


# -- one weight --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_is_quantised_in_chunks_as_bitsandbytes_does_it_at_once(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes import functional

    weight = torch.randn(300, 128, dtype=dtype)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    for chunk in (2**20, 64 * 7):
        monkeypatch.setattr(quantised_weights, "CHUNK", chunk)
        found = quantise_weight(weight)
        assert torch.equal(found.data, packed) and found.quant_state.dtype == dtype and not found.requires_grad
        theirs, ours = state.as_dict(), found.quant_state.as_dict()
        assert theirs["nested_absmax"].numel() == 3
        assert {name: str(value) for name, value in ours.items()} == {
            name: str(value) for name, value in theirs.items()
        }
        for name, value in theirs.items():
            assert not torch.is_tensor(value) or torch.equal(ours[name], value), name


def slowly_dequantised(weight: Any) -> Tensor:
    """The definition: a value of the table, times the scale of its block, which is a value of another table, scaled."""
    state = weight.quant_state
    places = [place for byte in weight.flatten().tolist() for place in (byte >> 4, byte & 15)]
    table, table_of_scales = state.code.double(), state.state2.code.double()
    scales = table_of_scales[state.absmax.long()]
    scales = scales * state.state2.absmax.double().repeat_interleave(256)[: len(scales)] + state.offset.double()
    return (table[places] * scales.repeat_interleave(64)).view(state.shape)


@pytest.mark.parametrize("shape", [(64, 64), (5, 128), (192, 320)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_a_dequantised_weight_is_that_of_the_definition_and_near_the_original(
    shape: tuple[int, int], dtype: torch.dtype, error: float
) -> None:
    weight = torch.randn(shape, dtype=dtype)
    found = dequantised_by(quantise_weight(weight))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), slowly_dequantised(quantise_weight(weight)), rtol=error, atol=1e-6)
    assert 0.05 < (found - weight).float().std() < 0.15
    buffer = torch.full((2, *shape), torch.nan, dtype=dtype)
    assert dequantised_by(quantise_weight(weight), buffer[0]).data_ptr() == buffer.data_ptr()
    assert torch.equal(buffer[0], found) and buffer[1].isnan().all()


# -- a whole model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_linear_weights_of_the_layers_are_quantised_and_nothing_else(tmp_path: Path, form: str) -> None:
    changes, layouts = FORMS[form]
    original = save_model(wide_config(**changes), tmp_path, layouts)
    wanted = original.state_dict()
    for layout in layouts:
        model = HiggsAudioModel.from_pretrained(tmp_path / layout, quantise=NF4)
        linears = linears_of_layers(model)
        assert linears.keys() == linears_of_layers(original).keys() and all(map(is_quantised, linears.values()))
        for name, linear in linears.items():
            assert torch.equal(dequantised(linear), dequantised_by(quantise_weight(wanted[f"{name}.weight"])))
        others = {n: p for n, p in model.named_parameters() if n.removesuffix(".weight") not in linears}
        assert len(others) == len(wanted) - len(linears)
        assert all(torch.equal(parameter, wanted[name]) for name, parameter in others.items())
        assert not model.training and not [n for n, b in model.named_buffers() if b.is_meta]


def test_a_tower_and_biases_stay_in_full_precision(demo: Path, tmp_path: Path) -> None:
    config = config_with_tower(demo / "model")
    config.text_config.attention_bias = config.text_config.mlp_bias = True
    original = HiggsAudioModel(config)
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    save_checkpoint(original, config, tmp_path, ORIGINAL)
    model = HiggsAudioModel.from_pretrained(tmp_path, quantise=NF4)
    wanted = original.state_dict()
    kept = {name: p for name, p in model.named_parameters() if "tower" in name or name.endswith("bias")}
    assert len(kept) > 40 and all(torch.equal(parameter, wanted[name]) for name, parameter in kept.items())


PEAKS_OF_LOADING = """
import ctypes, gc, json, sys, torch
from boson_multimodal.model.higgs_audio import HiggsAudioModel

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

def load(folder):
    return HiggsAudioModel.from_pretrained(folder, dtype=torch.bfloat16, quantise="nf4")

def peak_and_size(folder):
    load(folder)  # a first call brings in more pages of the libraries
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")  # VmHWM starts again from VmRSS
    before = memory("VmRSS")
    state = load(folder).state_dict().values()
    return memory("VmHWM") - before, sum(tensor.numel() * tensor.element_size() for tensor in state)

print(json.dumps([peak_and_size(folder) for folder in sys.argv[1:]]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_loading_needs_no_more_memory_than_the_quantised_model_and_one_file(tmp_path: Path) -> None:
    """Memory that the C library keeps after it was freed, up to 60 MB at any size of a model, is not counted."""
    text = {**wide_config().text_config.to_dict(), "hidden_size": 1024, "intermediate_size": 2048}
    config = tiny_config(text_config={**text, "num_hidden_layers": 4}, audio_ffn_intermediate_size=2048)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in HiggsAudioModel(config).state_dict().items()}
    folders, files = [], []
    for dtype, layout in ((torch.bfloat16, TRANSFORMERS), (torch.float32, ORIGINAL)):
        folders.append(tmp_path / f"{layout}_{dtype}")
        state = {name: torch.ones(shape, dtype=dtype) for name, shape in shapes.items()}
        save_checkpoint(state, config, folders[-1], layout, max_shard_size="20MB")
        files.append(max(file.stat().st_size for file in folders[-1].glob("*.safetensors")))
        assert len(list(folders[-1].glob("*.safetensors"))) > 4
    words = [sys.executable, "-c", PEAKS_OF_LOADING, *map(str, folders)]
    frees_at_once = {**ENVIRONMENT, "MALLOC_MMAP_THRESHOLD_": "131072"}
    result = subprocess.run(words, capture_output=True, text=True, env=frees_at_once, cwd=PROJECT)
    assert result.returncode == 0, result.stderr
    for (peak, size), file in zip(json.loads(result.stdout), files, strict=True):
        assert 0.9 * size < peak < 1.2 * size + file, (peak, size, file)


# -- what it computes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    torch.manual_seed(0)
    save_model(wide_config(), folder)
    return folder / ORIGINAL


def with_adapter(base: HiggsAudioModel, **settings: Any) -> torch.nn.Module:
    base.requires_grad_(False)
    config = HiggsAudioLoRATrainingConfig(**{"lora_rank": 4, "lora_targets": list(TARGET_GROUPS), **settings})
    model = get_peft_model(base, config.to_peft())
    fill_adapter(model)
    return model.train()


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_the_dequantised_weights(
    saved: Path, settings: dict[str, Any], checkpointing: bool
) -> None:
    """The negative controls are the weights before they were quantised, and one dequantised weight that is moved."""
    bases = {
        NF4: load_base_model(saved, "cpu", torch.float32, checkpointing, NF4),
        "same": in_full_precision(saved),
        "original": HiggsAudioModel.from_pretrained(saved),
        "moved": in_full_precision(saved),
    }
    bases["moved"].layers[1].audio_mlp.down_proj.weight.data[3] *= 1.01
    batch = random_batch(bases[NF4].config)
    found = {name: loss_and_gradients(with_adapter(base, **settings), batch) for name, base in bases.items()}
    loss, gradients = found[NF4]
    assert abs(loss / found["same"][0] - 1) < 1e-6
    assert largest_error(gradients, found["same"][1]) < 1e-5
    assert abs(loss / found["original"][0] - 1) > 1e-5 and largest_error(gradients, found["original"][1]) > 1e-2
    assert largest_error(gradients, found["moved"][1]) > 1e-4


def test_dropout_draws_the_same_numbers_as_in_full_precision(saved: Path) -> None:
    found = []
    for base in (HiggsAudioModel.from_pretrained(saved, quantise=NF4), in_full_precision(saved)):
        model = with_adapter(base, lora_dropout=0.3)
        torch.manual_seed(1)
        found.append(loss_and_gradients(model, random_batch(base.config))[1])
    assert largest_error(*found) < 1e-5


def test_peft_takes_its_own_layers_for_quantised_weights(saved: Path) -> None:
    from peft.tuners.lora.bnb import Linear4bit

    model = with_adapter(HiggsAudioModel.from_pretrained(saved, quantise=NF4))
    adapted = {
        name.removeprefix("base_model.model."): m for name, m in model.named_modules() if isinstance(m, LoraLayer)
    }
    quantised = {name for name, module in adapted.items() if type(module) is Linear4bit}
    assert quantised == linears_of_layers(HiggsAudioModel(wide_config())).keys()
    assert len(adapted) == len(quantised) + 3  # two heads and an embedding
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}


def test_training_goes_on_after_an_evaluation(saved: Path) -> None:
    """On a CPU with AVX512-BF16, bitsandbytes' modules lose their gradient when they have been in evaluation mode."""
    model = with_adapter(HiggsAudioModel.from_pretrained(saved, quantise=NF4))
    batch = random_batch(model.get_base_model().config)
    loss, before = loss_and_gradients(model, batch)
    model.eval()
    with torch.no_grad():
        evaluated = model(**vars(batch)).loss
    torch.testing.assert_close(evaluated, loss, rtol=1e-6, atol=0)
    again, after = loss_and_gradients(model.train(), batch)
    assert torch.equal(again, loss) and all(torch.equal(after[name], before[name]) for name in before)


def test_bfloat16_is_as_far_from_float32_as_with_dequantised_weights(saved: Path) -> None:
    exact = loss_and_gradients(
        with_adapter(in_full_precision(saved, torch.bfloat16).float()), random_batch(wide_config())
    )
    errors = []
    for base in (
        HiggsAudioModel.from_pretrained(saved, dtype=torch.bfloat16, quantise=NF4),
        in_full_precision(saved, torch.bfloat16),
    ):
        torch.manual_seed(0)
        model, batch = with_adapter(base), random_batch(base.config)
        with torch.autocast("cpu", torch.bfloat16):
            errors.append(largest_error(loss_and_gradients(model, batch)[1], exact[1]))
    assert 0 < errors[0] < 1.2 * errors[1]


# -- refused -----------------------------------------------------------------------------------------------------------


def test_a_quantised_model_is_neither_saved_nor_merged_into(saved: Path, tmp_path: Path) -> None:
    model = HiggsAudioModel.from_pretrained(saved, quantise=NF4)
    with pytest.raises(InputError, match="the weights are quantised, which no layout has"):
        save_checkpoint(model, model.config, tmp_path / "out", ORIGINAL)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="merge the adapter into a base in full precision"):
        merge_adapter(with_adapter(model), torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 96}, "intermediate_size is 96"),
        ({"hidden_size": 48, "head_dim": 12}, r"hidden_size is 48\n.*num_attention_heads \* head_dim is 48"),
        ({"head_dim": 20}, r"num_attention_heads \* head_dim is 80"),
    ],
)
def test_widths_that_bitsandbytes_reads_wrongly_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], message: str
) -> None:
    text = {**wide_config().text_config.to_dict(), **changes}
    model = HiggsAudioModel(tiny_config(text_config=text, audio_ffn_intermediate_size=128))
    save_checkpoint(model, model.config, tmp_path, ORIGINAL)
    monkeypatch.setattr("boson_multimodal.model.higgs_audio.modeling_higgs_audio.read_weights", None)
    with pytest.raises(InputError, match=f"needs widths that are multiples of 64(?s:.*){message}"):
        HiggsAudioModel.from_pretrained(tmp_path, quantise=NF4)


def test_the_audio_ffn_counts_only_where_there_is_one() -> None:
    with pytest.raises(InputError, match="audio_ffn_intermediate_size is 96"):
        check_widths(wide_config(audio_ffn_intermediate_size=96), "the model")
    check_widths(wide_config(audio_ffn_intermediate_size=96, audio_dual_ffn_layers=[]), "the model")


def test_a_library_that_does_not_work_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes import functional

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Configured CUDA binary not found at libbitsandbytes_cuda999.so")

    monkeypatch.setattr(functional, "quantize_4bit", broken)
    with pytest.raises(InputError, match=r"does not work on this machine's cpu \(RuntimeError: Configured CUDA binary"):
        require_quantisation(NF4, torch.device("cpu"))
    require_quantisation("none", torch.device("cpu"))
    with pytest.raises(InputError, match=r"quantise is 'int8'; it must be one of \['none', 'nf4'\]"):
        require_quantisation("int8", torch.device("cpu"))
