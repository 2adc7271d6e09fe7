"""Adapters for tests: random ones, renamed ones, and the tool that exports them."""

from pathlib import Path

import torch
from peft import get_peft_model
from transformers import HiggsAudioV2ForConditionalGeneration

from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL
from lora_config import TARGET_GROUPS, HiggsAudioLoRATrainingConfig
from tests.native_oracle import tiny_config
from tools import merge_adapter as tool
from voice_cloning.adapters.logit_comparison import Logits, differences

TOLERANCE = 2e-5
"""The largest allowed difference between two fp32 logits of the same model."""
EVERY_GROUP = list(TARGET_GROUPS)
VARIANTS = [{}, {"use_rslora": True}, {"use_dora": True}]


def arguments(demo: Path, adapter: Path, output: Path, layout: str, *more: str) -> list[str]:
    paths = ["--model_path", str(demo / "model"), "--adapter", str(adapter), "--output", str(output)]
    return [*paths, "--layout", layout, *more]


def rename(adapter: Path, output: Path, layout: str) -> Path:
    flags = ["--adapter", str(adapter), "--output", str(output), "--layout", layout, "--adapter_only"]
    assert tool.main(flags) == 0
    return output


def assert_close(one: Logits, other: Logits) -> None:
    for head, difference in differences(one, other).items():
        assert difference.largest <= TOLERANCE, f"{head}: {difference}"


def native(folder: Path) -> HiggsAudioV2ForConditionalGeneration:
    return HiggsAudioV2ForConditionalGeneration.from_pretrained(folder, use_text_head=True, dtype="auto").eval()


def random_adapter(folder: Path, model: HiggsAudioModel, **settings: object) -> Path:
    """Save an adapter for ``model`` with random weights (and changed DoRA magnitudes) with PEFT."""
    config = HiggsAudioLoRATrainingConfig(**{"lora_rank": 4, "lora_targets": EVERY_GROUP, **settings}).to_peft()
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
            elif "lora_" in name:
                parameter.copy_(0.03 * torch.randn_like(parameter))
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


def tiny_model(folder: Path) -> HiggsAudioModel:
    """Save a random model whose norms differ from one another."""
    model = HiggsAudioModel(tiny_config()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    save_checkpoint(model, model.config, folder, ORIGINAL)
    return model
