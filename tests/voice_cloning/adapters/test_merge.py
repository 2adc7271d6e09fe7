"""Test merged models in both layouts and types, and the errors of an export."""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS, ORIGINAL, TRANSFORMERS, to_transformers_name
from lora_config import TARGET_GROUPS
from tests.exported_adapters import VARIANTS, arguments, assert_close, native, random_adapter, rename, tiny_model
from tools import merge_adapter as tool
from voice_cloning.adapters import merge
from voice_cloning.adapters.export import read_adapter
from voice_cloning.adapters.logit_comparison import Logits, differences, fixed_batch, our_logits, transformers_logits


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_merged_in_float32_has_the_logits_of_base_and_adapter(
    trained: Path, reference: Logits, demo: Path, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "merged"
    assert tool.main(arguments(demo, trained, output, layout)) == 0
    printed = capsys.readouterr().out
    assert f"written: {output}" in printed
    assert ("read by transformers' class" in printed) == (layout == TRANSFORMERS)
    config = HiggsAudioModel.from_pretrained(demo / "model").config
    if layout == TRANSFORMERS:
        found = transformers_logits(native(output), config, fixed_batch(config))
    else:
        stored, base = (load_file(folder / "model.safetensors") for folder in (output, demo / "model"))
        assert {k: v.shape for k, v in stored.items()} == {k: v.shape for k, v in base.items()}
        found = our_logits(HiggsAudioModel.from_pretrained(output), fixed_batch(config))
    assert_close(found, reference)
    text = "\u0645\u0631\u062d\u0628\u0627 <|audio_out_bos|>"
    ids = AutoTokenizer.from_pretrained(demo / "model")(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(output)(text)["input_ids"] == ids
    assert {path.name for path in output.iterdir()} == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors", "run.json"),
        *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
        *(("chat_template.jinja", "processor_config.json") if layout == TRANSFORMERS else ()),
    }


def test_an_adapter_and_a_base_may_be_in_either_layout(
    trained: Path, demo: Path, native_base: Path, tmp_path: Path
) -> None:
    renamed = rename(trained, tmp_path / "renamed", TRANSFORMERS)
    for name, base, adapter in (("a", native_base, renamed), ("b", demo / "model", trained)):
        (tmp_path / name).mkdir()
        merge.merge(read_adapter(adapter), base, tmp_path / name, ORIGINAL)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    given = {name for name, value in one.items() if value is not None}
    assert given == {name for name, value in other.items() if value is not None}
    assert all(torch.equal(one[name], other[name]) for name in given)


@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora"])
def test_every_kind_of_adapter_merges(tmp_path: Path, variant: dict[str, object]) -> None:
    """``merge`` compares logits itself. This test compares the weights with those of PEFT's merge."""
    adapter = random_adapter(tmp_path / "adapter", tiny_model(tmp_path / "base"), **variant)
    (tmp_path / "out").mkdir()
    lines = merge.merge(read_adapter(adapter), tmp_path / "base", tmp_path / "out", TRANSFORMERS)
    assert len(lines) == 3
    wrapped = PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(tmp_path / "base"), adapter)
    merged = HiggsAudioModel.from_pretrained(tmp_path / "out").state_dict()
    base = HiggsAudioModel.from_pretrained(tmp_path / "base").state_dict()
    for name, weight in wrapped.merge_and_unload().state_dict().items():
        torch.testing.assert_close(merged[name], weight, rtol=0, atol=1e-6)
        adapted = any(re.fullmatch(f"({pattern}).weight", name) for pattern in TARGET_GROUPS.values())
        assert torch.equal(merged[name], base[name]) != adapted


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora"])
def test_a_model_merged_in_bfloat16_differs_only_by_rounding(
    tmp_path: Path, stored: torch.dtype, variant: dict[str, object]
) -> None:
    model = tiny_model(tmp_path / "fp32")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(stored)
    save_checkpoint(model, model.config, tmp_path / "base", ORIGINAL)
    adapter = random_adapter(tmp_path / "adapter", HiggsAudioModel.from_pretrained(tmp_path / "base"), **variant)
    (tmp_path / "out").mkdir()
    merge.merge(read_adapter(adapter), tmp_path / "base", tmp_path / "out", TRANSFORMERS, torch.bfloat16)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}

    batch = fixed_batch(model.config)
    exact, rounded = (
        our_logits(
            PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(tmp_path / "base", dtype=dtype), adapter), batch
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    merged = our_logits(HiggsAudioModel.from_pretrained(tmp_path / "out"), batch)
    own = differences(rounded, exact)
    for head, difference in differences(merged, exact).items():
        assert 0 < difference.row_rms < 1.5 * own[head].row_rms
    # The sum is rounded once: the weight is exactly the fp32 sum, converted to bf16.
    whole = PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(tmp_path / "base", dtype=torch.float32), adapter)
    for name, weight in whole.merge_and_unload().state_dict().items():
        assert torch.equal(tensors[to_transformers_name(name)], weight.to(torch.bfloat16))


# -- errors ------------------------------------------------------------------------------------------------------------


def fails(demo: Path, adapter: Path, output: Path, layout: str = TRANSFORMERS, *more: str) -> str:
    """Run the tool. It must fail and leave no file. Return its error message."""
    before = sorted(output.parent.iterdir())
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert tool.main(arguments(demo, adapter, output, layout, *more)) == 1
    assert sorted(output.parent.iterdir()) == before
    return said.getvalue()


def forget_one_module(model: PeftModel, dtype: torch.dtype) -> HiggsAudioModel:
    """A faulty merge that leaves out the update of one of 33 modules."""
    with torch.no_grad():
        model.get_base_model().layers[1].audio_mlp.up_proj.lora_B.default.weight.zero_()
    return MERGE(model, dtype)


def forget_the_scale(model: PeftModel, dtype: torch.dtype) -> HiggsAudioModel:
    for module in model.modules():
        if hasattr(module, "scaling"):
            module.scaling["default"] = 1.0
    return MERGE(model, dtype)


MERGE = merge.merge_adapter


@pytest.mark.parametrize(
    ("wrong", "layout", "dtype"),
    [
        (forget_one_module, TRANSFORMERS, "float32"),
        (forget_one_module, ORIGINAL, "bfloat16"),
        (forget_the_scale, TRANSFORMERS, "bfloat16"),
    ],
)
def test_a_wrong_merge_fails_and_leaves_nothing(
    trained: Path,
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[..., HiggsAudioModel],
    layout: str,
    dtype: str,
) -> None:
    monkeypatch.setattr(merge, "merge_adapter", wrong)
    said = fails(demo, trained, tmp_path / "out", layout, "--torch_dtype", dtype)
    assert (
        "error: the merged model differs from base + adapter; it is not kept\n  text logits, read by HiggsAudioModel"
        in said
    )
    assert ("audio logits, read by transformers' class" in said) == (layout == TRANSFORMERS)


def test_a_tensor_that_is_written_wrongly_is_found(
    trained: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap(model: HiggsAudioModel, *args: object) -> None:
        state = model.state_dict()
        first, second = (f"layers.0.{name}layernorm.weight" for name in ("audio_input_", "audio_post_attention_"))
        state[first] = state[second] * 1.01
        save_checkpoint(state, *args)

    monkeypatch.setattr(merge, "save_checkpoint", swap)
    assert "audio logits, read by HiggsAudioModel" in fails(demo, trained, tmp_path / "out")


def test_ctrl_c_leaves_nothing(
    trained: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(folder: Path, *_: object) -> None:
        assert (folder / "model.safetensors").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "_verify", interrupted)
    assert tool.main(arguments(demo, trained, tmp_path / "out", ORIGINAL)) == 130
    assert "interrupted; no file is left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_remains_of_a_killed_merge_are_replaced(trained: Path, demo: Path, tmp_path: Path) -> None:
    (tmp_path / ".writing-out").mkdir()
    (tmp_path / ".writing-out" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "out").mkdir()
    assert tool.main(arguments(demo, trained, tmp_path / "out", ORIGINAL)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def no_weights_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HiggsAudioModel, "from_pretrained", None)


def test_a_nonempty_output_folder_is_refused(trained: Path, demo: Path, tmp_path: Path, no_weights_read: None) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "already exists; give a new folder" in fails(demo, trained, tmp_path / "out")
    assert "already exists; give a new folder" in fails(demo, trained, tmp_path / "out", ORIGINAL, "--adapter_only")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert tool.main(arguments(demo, trained, tmp_path / "no" / "out", ORIGINAL)) == 1


def edited(
    adapter: Path, folder: Path, tensors: dict[str, torch.Tensor | None] | None = None, **config: object
) -> Path:
    """Copy an adapter with changed settings and tensors (None removes a tensor)."""
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    weights = folder / "adapter_model.safetensors"
    found = {**load_file(weights), **(tensors or {})}
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, weights)
    return folder


def test_an_adapter_of_another_model_is_refused_with_every_tensor(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None
) -> None:
    layer = "base_model.model.layers.0.self_attn.q_proj"
    changes = {
        f"{layer}.lora_A.weight": torch.zeros(16, 64),
        f"{layer}.lora_B.weight": None,
        "base_model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(16, 128),
    }
    adapter = edited(trained, tmp_path / "adapter", changes)
    message = [
        "was trained on another model (3):",
        "layers.0.self_attn.q_proj.lora_A.weight: has shape (16, 64), the model needs (16, 128)",
        "layers.0.self_attn.q_proj.lora_B.weight: missing from adapter_model.safetensors",
        "layers.7.self_attn.q_proj.lora_A.weight: the model has no such module, or target_modules does not name it",
    ]
    (tmp_path / "into").mkdir()
    for more in ([], ["--adapter_only"]):
        said = fails(demo, adapter, tmp_path / "into" / "out", TRANSFORMERS, *more)
        assert all(line in said for line in message)


def test_an_adapter_whose_targets_the_model_lacks_is_refused(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None
) -> None:
    adapter = edited(trained, tmp_path / "adapter", target_modules=r"layers\.\d+\.cross_attn")
    said = fails(demo, adapter, tmp_path / "out")
    assert "the adapter does not fit" in said and "cross_attn" in said


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments .'of_a_later_peft'")
@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({}, {"peft_type": "LOHA"}, "has peft_type 'LOHA'; it must be LORA"),
        (
            {},
            {"bias": "all", "rank_pattern": {"q_proj": 3}, "init_lora_weights": "pissa", "of_a_later_peft": True},
            r"settings that this project does not support \(4\):\n  bias is 'all', not 'none'"
            r"\n  rank_pattern is {'q_proj': 3}, not {}\n"
            "  of_a_later_peft is True, not None\n"
            "  init_lora_weights is 'pissa', which changes the base's weights",
        ),
        (
            {"base_model.model.layers.0.mlp.up_proj.lora_A.weight": torch.full((16, 128), float("nan"))},
            {},
            "layers.0.mlp.up_proj.lora_A.weight: not finite",
        ),
        ({"layers.0.weight": torch.zeros(1)}, {}, "layers.0.weight: not the name of a tensor of a LoRA adapter"),
        (
            {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(16, 128)},
            {},
            "tensors of both layouts in one checkpoint",
        ),
    ],
)
def test_an_unsupported_or_damaged_adapter_is_refused(
    trained: Path,
    demo: Path,
    tmp_path: Path,
    no_weights_read: None,
    tensors: dict[str, torch.Tensor],
    config: dict[str, object],
    message: str,
) -> None:
    adapter = edited(trained, tmp_path / "adapter", tensors, **config)
    assert re.search(message, fails(demo, adapter, tmp_path / "out"))


def test_a_folder_without_an_adapter_or_with_a_damaged_one_is_refused(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None
) -> None:
    assert "no adapter_config.json and no adapter_model.safetensors in it" in fails(demo, tmp_path, tmp_path / "out")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        folder = shutil.copytree(trained, tmp_path / f"cut {name}")
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
        said = fails(demo, folder, tmp_path / "out")
        assert name in said and "fetch it again" in said


def test_an_invalid_run_json_is_refused(trained: Path, demo: Path, tmp_path: Path, no_weights_read: None) -> None:
    adapter = shutil.copytree(trained, tmp_path / "adapter")
    for content, message in (("{", "run.json: not JSON"), ("[]", "run.json: does not describe a training run")):
        (adapter / "run.json").write_text(content)
        assert message in fails(demo, adapter, tmp_path / "out")


def test_a_layout_that_cannot_hold_the_model_is_refused_before_its_weights_are_read(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None
) -> None:
    model = shutil.copytree(demo / "model", tmp_path / "fast_forward" / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "audio_dual_ffn_layers": [0, 2]}))
    said = fails(tmp_path / "fast_forward", trained, tmp_path / "out")
    assert "export the original layout" in said and "audio_dual_ffn_layers leaves out some" in said


def test_too_little_disk_space_is_reported_before_the_weights_are_read(
    trained: Path, demo: Path, tmp_path: Path, no_weights_read: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    assert "GB are needed, 0.0 GB are free" in fails(demo, trained, tmp_path / "out")


def test_an_adapter_with_infinite_logits_is_refused(tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", tiny_model(tmp_path / "base"))
    weights = adapter / "adapter_model.safetensors"
    save_file({name: 1e30 * tensor for name, tensor in load_file(weights).items()}, weights)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="base . adapter has logits that are not finite"):
        merge.merge(read_adapter(adapter), tmp_path / "base", tmp_path / "out", ORIGINAL)
