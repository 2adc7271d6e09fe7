"""Test how the files of a checkpoint are read, and that damaged and wrong files are refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel, modeling_higgs_audio
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS, ORIGINAL, TRANSFORMERS
from tests.checkpoint_folders import assert_same_tensors, edit_json, refusal
from tests.native_oracle import tiny_config
from tests.training_runs import ENVIRONMENT, PROJECT

PEAK_OVER_WEIGHTS = 1.2
"""The most memory that loading may take, as a multiple of the weights' size."""


# -- loading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("stored_as", "wanted"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_weights_are_rounded_as_torch_rounds_them(
    model: HiggsAudioModel, tmp_path: Path, layout: str, stored_as: str, wanted: str
) -> None:
    state = {name: tensor.to(getattr(torch, stored_as)) for name, tensor in model.state_dict().items()}
    save_checkpoint(state, model.config, tmp_path, layout)
    as_stored, converted = (HiggsAudioModel.from_pretrained(tmp_path, dtype=dtype) for dtype in ("auto", wanted))
    assert_same_tensors(as_stored.state_dict(), state)
    assert_same_tensors(converted.state_dict(), {k: v.to(getattr(torch, wanted)) for k, v in state.items()})
    assert converted.config.dtype == getattr(torch, wanted)
    assert torch.equal(converted.rotary_emb.inv_freq, model.rotary_emb.inv_freq), "buffers stay fp32"


def test_long_tensors_are_read_in_chunks(
    model: HiggsAudioModel, saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boson_multimodal.model.higgs_audio.checkpoint_files.CHUNK_BYTES", 1000)
    for dtype in (torch.float32, torch.bfloat16):
        found = HiggsAudioModel.from_pretrained(saved[ORIGINAL], dtype=dtype)
        assert_same_tensors(found.state_dict(), {k: v.to(dtype) for k, v in model.state_dict().items()})


def test_loading_draws_no_random_number_and_gives_a_usable_model(saved: dict[str, Path]) -> None:
    before = torch.get_rng_state()
    found = HiggsAudioModel.from_pretrained(saved[TRANSFORMERS], device_map={"": torch.device("cpu")})
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.training
    assert not [name for name, tensor in (*found.named_parameters(), *found.named_buffers()) if tensor.is_meta]
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert found.name_or_path == found.config.name_or_path == str(saved[TRANSFORMERS])


def test_changing_weights_in_place_leaves_the_file_alone(saved: dict[str, Path]) -> None:
    before = {file: file.read_bytes() for file in saved[ORIGINAL].iterdir()}
    found = HiggsAudioModel.from_pretrained(saved[ORIGINAL])
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(1.0)
    assert {file: file.read_bytes() for file in saved[ORIGINAL].iterdir()} == before


def test_a_given_config_is_used_and_left_as_it_is(saved: dict[str, Path], model: HiggsAudioModel) -> None:
    config = tiny_config(pad_token_id=7)
    found = HiggsAudioModel.from_pretrained(saved[ORIGINAL], config=config, dtype=torch.bfloat16)
    assert found.config.pad_token_id == 7
    assert config.dtype is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "bfloat17"}, "dtype 'bfloat17': not a floating point type"),
        ({"dtype": torch.int8}, "dtype torch.int8: not a floating point type"),
        ({"device_map": {"layers": "cpu", "norm": "cuda"}}, "device_map .*the model must be on one device"),
    ],
)
def test_odd_arguments_are_named(saved: dict[str, Path], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HiggsAudioModel.from_pretrained(saved[ORIGINAL], **arguments)


PEAKS_OF_LOADING = """
import json, multiprocessing, sys, torch
from boson_multimodal.model.higgs_audio import HiggsAudioModel

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

def peak_over_weights(folder):
    open("/proc/self/clear_refs", "w").write("5")  # VmHWM starts again from VmRSS
    before = memory("VmRSS")
    model = HiggsAudioModel.from_pretrained(folder, dtype=torch.bfloat16)
    return (memory("VmHWM") - before) / sum(p.numel() * p.element_size() for p in model.parameters())

HiggsAudioModel.from_pretrained(sys.argv[1])  # a first call imports and allocates more
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:  # a fresh heap for each
    print(json.dumps(pool.map(peak_over_weights, sys.argv[2:], chunksize=1)))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_memory_of_loading(saved: dict[str, Path], tmp_path: Path) -> None:
    """Measure the growth of resident memory during the call (VmHWM counts heap and mapped files)."""
    text = {**tiny_config().text_config.to_dict(), "vocab_size": 8192, "hidden_size": 2048, "intermediate_size": 4096}
    config = HiggsAudioConfig(text_config=text)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in HiggsAudioModel(config).state_dict().items()}
    assert sum(shape.numel() for shape in shapes.values()) * 2 > 300e6
    folders = []
    for dtype, layout in ((torch.bfloat16, TRANSFORMERS), (torch.float32, ORIGINAL)):
        folders.append(tmp_path / f"{layout}_{dtype}")
        state = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
        save_checkpoint(state, config, folders[-1], layout)
    words = [sys.executable, "-c", PEAKS_OF_LOADING, *map(str, (saved[ORIGINAL], *folders))]
    result = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, cwd=PROJECT)
    assert result.returncode == 0, result.stderr
    peaks = json.loads(result.stdout)
    assert len(peaks) == 2
    assert all(0.9 < peak < PEAK_OVER_WEIGHTS for peak in peaks), peaks


# -- wrong files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a weight is read."""

    def spent(*args: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(modeling_higgs_audio, "read_weights", spent)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_damaged_file_is_named_at_once(nothing_read: None, saved: dict[str, Path], layout: str) -> None:
    files = sorted(saved[layout].glob("*.safetensors"))
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:-100])
    files[1].unlink()
    files[2].write_bytes(b"<html>not found</html>")
    files[3].write_bytes(whole[:8] + b"!" * (len(whole) - 8))
    message = refusal(saved[layout])
    assert "its weight files are damaged or incomplete; fetch them again (4):" in message
    problem = f"truncated or damaged: it has {len(whole) - 100} bytes, its header says {len(whole)}"
    assert f"{files[0].name}: {problem}" in message
    assert f"{files[1].name}: named in model.safetensors.index.json, but missing" in message
    assert f"{files[2].name}: truncated, or not a safetensors file: it has 22 bytes" in message
    assert f"{files[3].name}: its header is not a safetensors header (JSONDecodeError" in message


def test_a_truncated_single_file(nothing_read: None, model: HiggsAudioModel, tmp_path: Path) -> None:
    save_checkpoint(model, model.config, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "model.safetensors: truncated or damaged" in refusal(tmp_path)


def test_an_index_that_names_too_many_or_too_few_tensors(nothing_read: None, saved: dict[str, Path]) -> None:
    def change(index: dict[str, Any]) -> None:
        index["weight_map"]["layers.9.surplus"] = index["weight_map"]["embed_tokens.weight"]
        index["weight_map"]["layers.8.surplus"] = "model-00009-of-00009.safetensors"
        del index["weight_map"]["norm.weight"]

    edit_json(saved[ORIGINAL] / "model.safetensors.index.json", change)
    message = refusal(saved[ORIGINAL])
    assert "fetch them again (3):" in message
    assert "model-00009-of-00009.safetensors: named in model.safetensors.index.json, but missing" in message
    assert "model.safetensors.index.json says that it holds layers.9.surplus, but it does not" in message
    assert "holds norm.weight, which model.safetensors.index.json has in no file" in message


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ('{"metadata": {}}', "has no weight_map")])
def test_an_unreadable_index(nothing_read: None, saved: dict[str, Path], text: str, message: str) -> None:
    (saved[ORIGINAL] / "model.safetensors.index.json").write_text(text)
    assert message in refusal(saved[ORIGINAL])


def test_weights_of_another_format_are_named(nothing_read: None, saved: dict[str, Path]) -> None:
    for file in saved[ORIGINAL].glob("model*"):
        file.unlink()
    (saved[ORIGINAL] / "pytorch_model.bin").write_bytes(b"")
    message = refusal(saved[ORIGINAL])
    assert "neither model.safetensors nor model.safetensors.index.json in it (but ['pytorch_model.bin'])" in message


def test_weights_of_another_model_or_of_both_layouts(
    nothing_read: None, model: HiggsAudioModel, tmp_path: Path
) -> None:
    save_checkpoint(model, model.config, tmp_path)
    state = model.state_dict()
    save_file({f"transformer.{name}": tensor for name, tensor in state.items()}, tmp_path / "model.safetensors")
    assert "no tensor has a name of Higgs Audio v2 (the first are ['transformer.audio_codebook" in refusal(tmp_path)
    save_file({**state, "text_lm_head.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    message = refusal(tmp_path)
    assert "tensors of both layouts in one checkpoint: audio_codebook_embeddings.weight is an original name" in message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_vocabulary_size(nothing_read: None, saved: dict[str, Path], layout: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config.get("text_config", config)["vocab_size"] = 500

    edit_json(saved[layout] / "config.json", change)
    message = refusal(saved[layout])
    assert "tensors do not fit the configuration (2):" in message
    assert message.count("has shape (512, 64), not (500, 64)") == 2
    embedding = {ORIGINAL: "  embed_tokens.weight: ", TRANSFORMERS: "  model.embed_tokens.weight: "}
    assert embedding[layout] in message, "with the name in the file"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_config_of_12_codebooks(nothing_read: None, saved: dict[str, Path], layout: str) -> None:
    name = {ORIGINAL: "audio_num_codebooks", TRANSFORMERS: "num_codebooks"}[layout]
    edit_json(saved[layout] / "config.json", lambda config: config.update({name: 12}))
    message = refusal(saved[layout])
    assert "tensors do not fit the configuration (2):" in message
    assert message.count("has shape (272, 64), not (408, 64)") == 2


def test_weights_of_a_type_that_is_not_read(nothing_read: None, model: HiggsAudioModel, tmp_path: Path) -> None:
    save_checkpoint(model, model.config, tmp_path)
    state = model.state_dict()
    state["norm.weight"] = state["norm.weight"].to(torch.int8)
    save_file(state, tmp_path / "model.safetensors")
    assert "norm.weight: stored as I8; the type of weights must be one of F64, F32, BF16, F16" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("layout", "field", "value", "message"),
    [
        (ORIGINAL, "use_rq_transformer", True, "use_rq_transformer True: this form of the model is not supported"),
        (ORIGINAL, "audio_stream_eos_id", 40, "audio_stream_eos_id 40 is not in 0..33"),
        (TRANSFORMERS, "audio_stream_eos_id", 40, "audio_stream_eos_id 40 is not in 0..33"),
        (TRANSFORMERS, "num_codebooks", "eight", "num_codebooks"),
        (
            TRANSFORMERS,
            "audio_bos_token_id",
            495,
            "'audio_out_bos_token_id': 495, 'audio_eos_token_id': 492} are not 4",
        ),
        (TRANSFORMERS, "model_type", "higgs_audio_v2_tokenizer", "model_type 'higgs_audio_v2_tokenizer', not"),
    ],
)
def test_values_that_the_model_cannot_have(
    nothing_read: None, saved: dict[str, Path], layout: str, field: str, value: object, message: str
) -> None:
    edit_json(saved[layout] / "config.json", lambda config: config.update({field: value}))
    assert message in refusal(saved[layout])
