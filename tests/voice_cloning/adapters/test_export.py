"""Test that renamed adapters work with transformers' class and with ours."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL, TRANSFORMERS, to_transformers_name
from tests.exported_adapters import TOLERANCE, VARIANTS, assert_close, native, random_adapter, rename, tiny_model
from tests.native_oracle import native_logits, native_model, random_sample, tiny_config
from voice_cloning.adapters.export import TARGETS, read_adapter
from voice_cloning.adapters.logit_comparison import Logits, differences, fixed_batch, transformers_logits


def test_a_trained_adapter_gives_transformers_class_our_logits(
    trained: Path, native_base: Path, reference: Logits, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = rename(trained, tmp_path / "renamed", TRANSFORMERS)
    assert "build transformers' class with use_text_head=True" in capsys.readouterr().out
    wrapped = PeftModel.from_pretrained(native(native_base), renamed).eval()
    config = HiggsAudioModel.from_pretrained(demo / "model").config
    found = transformers_logits(wrapped.get_base_model(), config, fixed_batch(config))
    assert_close(found, reference)
    untrained = transformers_logits(native(native_base), config, fixed_batch(config))
    assert all(difference.largest > 1 for difference in differences(untrained, reference).values())


@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora"])
def test_every_kind_of_adapter_gives_the_oracle_our_logits(tmp_path: Path, variant: dict[str, object]) -> None:
    torch.manual_seed(0)
    tiny_model(tmp_path / "base")
    ours, theirs = (HiggsAudioModel.from_pretrained(tmp_path / "base") for _ in range(2))
    batch = ArabicVoiceCloningTrainingCollator.from_config(ours.config)(
        [random_sample(7, 20, 12), random_sample(3, 4, 5), random_sample(9, 1, 30)]
    )
    adapter = random_adapter(tmp_path / "adapter", HiggsAudioModel.from_pretrained(tmp_path / "base"), **variant)
    renamed = rename(adapter, tmp_path / "renamed", TRANSFORMERS)
    ours = PeftModel.from_pretrained(ours, adapter).eval()
    theirs = PeftModel.from_pretrained(native_model(theirs), renamed).eval()
    with torch.no_grad():
        output = ours(**vars(batch), output_logits=True)
        found = native_logits(
            theirs, ours.get_base_model().config, batch, output.expanded_input_ids, output.attention_mask
        )
    mask = output.attention_mask.bool()
    torch.testing.assert_close(output.audio_logits, found.audio_CKV, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(output.logits[mask], found.text_BSV[mask], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS, ids=["lora", "rslora", "dora"])
def test_renaming_there_and_back_changes_no_bit(tmp_path: Path, variant: dict[str, object]) -> None:
    settings = {**variant, "lora_targets": ["heads", "attention", "audio_embeddings"]}
    adapter = random_adapter(tmp_path / "adapter", tiny_model(tmp_path / "base"), **settings)
    there = rename(adapter, tmp_path / "there", TRANSFORMERS)
    back = rename(there, tmp_path / "back", ORIGINAL)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    renamed = load_file(there / "adapter_model.safetensors")
    assert len(renamed) == len(before) and not renamed.keys() & before.keys()
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (adapter, back)]
    for config in configs:
        for name in ("base_model_name_or_path", "revision"):
            config.pop(name)
    assert configs[0] == configs[1]


@pytest.mark.parametrize("targets", [["q_proj", "up_proj"], r".*\.layers\.[01]\..*v_proj"])
def test_foreign_target_modules_become_the_modules_that_have_tensors(tmp_path: Path, targets: object) -> None:
    """The adapter was made on transformers' class. In our class it adapts exactly the same modules."""
    theirs = native_model(tiny_model(tmp_path / "base"))
    wrapped = get_peft_model(theirs, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    wrapped.save_pretrained(tmp_path / "foreign")
    renamed = rename(tmp_path / "foreign", tmp_path / "renamed", ORIGINAL)
    ours = PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(tmp_path / "base"), renamed)
    adapted = {to_transformers_name(name) for name in read_adapter(renamed).modules}
    assert adapted == {
        n.split(".lora_")[0].removeprefix("base_model.model.") for n in wrapped.state_dict() if "lora_" in n
    }
    assert len([name for name, _ in ours.named_modules() if name.endswith("lora_A.default")]) == len(adapted)


def test_both_tables_of_groups_name_the_same_modules() -> None:
    names = [name for name, _ in HiggsAudioModel(tiny_config()).named_modules()]
    assert TARGETS[TRANSFORMERS].keys() == TARGETS[ORIGINAL].keys()
    for group, pattern in TARGETS[ORIGINAL].items():
        ours = [name for name in names if re.fullmatch(pattern, name)]
        assert ours
        theirs = [name for name, _ in native_model(HiggsAudioModel(tiny_config())).named_modules()]
        found = {name for name in theirs if re.fullmatch(TARGETS[TRANSFORMERS][group], name)}
        assert found == {to_transformers_name(name) for name in ours}
