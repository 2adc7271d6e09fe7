"""Test which modules get an adapter, and that a checkpoint that does not fit is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from lora_config import TARGET_GROUPS, HiggsAudioLoRATrainingConfig, create_higgs_audio_lora_model

LAYERS = 3
MODULES_PER_GROUP = {
    "attention": 4 * LAYERS,
    "text_mlp": 3 * LAYERS,
    "audio_mlp": 3 * LAYERS,
    "heads": 2,
    "audio_embeddings": 1,
}


def adapted_modules(model: PeftModel) -> set[str]:
    names = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    return {name.removeprefix("base_model.model.") for name in names}


@pytest.mark.parametrize("group", TARGET_GROUPS)
def test_each_group_takes_its_modules_and_no_others(demo: Path, group: str) -> None:
    config = HiggsAudioLoRATrainingConfig(lora_targets=[group])
    model, _, _ = create_higgs_audio_lora_model(demo / "model", config, torch_dtype=torch.float32)
    found = adapted_modules(model)
    assert len(found) == MODULES_PER_GROUP[group]
    assert all(re.fullmatch(TARGET_GROUPS[group], name) for name in found)


def test_the_patterns_do_not_reach_into_an_audio_tower() -> None:
    for pattern in TARGET_GROUPS.values():
        assert not re.fullmatch(pattern, "audio_tower.layers.0.self_attn.q_proj")


def test_defaults_and_what_is_printed(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, config, peft_config = create_higgs_audio_lora_model(demo / "model")
    assert peft_config.r == 16 and peft_config.task_type is None
    assert config.audio_num_codebooks == 8
    assert len(adapted_modules(model)) == 10 * LAYERS
    assert next(model.get_base_model().embed_tokens.parameters()).dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert capsys.readouterr().out == "trainable parameters: 153,600 of 3,182,208 (4.83 %)\n"


@pytest.mark.parametrize("variant", [{"use_rslora": True}, {"use_dora": True}, {"lora_dropout": 0.5}])
def test_variants_train(demo: Path, variant: dict[str, object]) -> None:
    config = HiggsAudioLoRATrainingConfig(lora_rank=4, **variant)
    model, _, peft_config = create_higgs_audio_lora_model(demo / "model", config, torch_dtype=torch.float32)
    for name, value in variant.items():
        assert getattr(peft_config, name) == value
    ids = torch.tensor([[704, 5, 6, 7]])
    model(input_ids=ids, label_ids=ids).loss.backward()
    gradients = [p.grad for n, p in model.named_parameters() if "self_attn" in n and "lora_B" in n]
    assert gradients and all(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_rank": 0}, "lora_rank is 0; it must be at least 1"),
        ({"lora_alpha": 0.0}, "lora_alpha is 0.0; it must be above 0"),
        ({"lora_dropout": 1.0}, r"lora_dropout is 1.0; it must be in \[0, 1\)"),
        ({"lora_targets": ["attention", "mlp"]}, "lora_targets is .* it must name some of"),
        ({"lora_targets": []}, "lora_targets is .* it must name some of"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HiggsAudioLoRATrainingConfig(**values)


def test_a_checkpoint_that_does_not_fit_lists_every_tensor(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["norm.weight"]
    tensors["layers.0.mlp.up_proj.weight"] = tensors["layers.0.mlp.up_proj.weight"][:5].clone()
    tensors["layers.9.surplus"] = torch.zeros(1)
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(InputError) as caught:
        HiggsAudioModel.from_pretrained(tmp_path / "model")
    message = str(caught.value)
    assert "tensors do not fit the configuration (3):" in message
    assert "norm.weight: missing" in message
    assert "layers.9.surplus: unexpected" in message
    assert "layers.0.mlp.up_proj.weight: has shape (5, 128), not (256, 128)" in message


def test_another_kind_of_model_is_refused_by_its_type(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "llama"}))
    with pytest.raises(InputError, match="model_type 'llama', not 'higgs_audio' .original layout. or 'higgs_audio_v2'"):
        HiggsAudioModel.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("skip_audio_tower", False, "audio_tower.conv1.bias: missing"),
        ("audio_dual_ffn_layers", [0, 2], "layers.1.audio_mlp.down_proj.weight: unexpected"),
        ("use_rq_transformer", True, "use_rq_transformer True: this form of the model is not supported"),
    ],
)
def test_a_form_that_the_weights_are_not_of_is_named(
    demo: Path, tmp_path: Path, field: str, value: object, message: str
) -> None:
    shutil.copytree(demo / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(InputError, match=message):
        create_higgs_audio_lora_model(tmp_path / "model")
