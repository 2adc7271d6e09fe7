"""Models with 4-bit weights, and the same models in full precision."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, HiggsAudioBatchInput
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS
from boson_multimodal.model.higgs_audio.quantised_weights import NF4, dequantised, linears_of_layers
from tests.native_oracle import random_sample, tiny_config

WITHOUT_LIBRARY = "bitsandbytes is absent"
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason=WITHOUT_LIBRARY)


def wide_config(**changes: object) -> HiggsAudioConfig:
    """The tiny model with widths that can be quantised."""
    text = {**tiny_config().text_config.to_dict(), "intermediate_size": 128}
    return tiny_config(text_config=text, **{"audio_ffn_intermediate_size": 128, **changes})


def save_model(config: HiggsAudioConfig, folder: Path, layouts: Sequence[str] = LAYOUTS) -> HiggsAudioModel:
    """Save a random model, whose norms differ from one another, in each layout, in several files."""
    model = HiggsAudioModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    for layout in layouts:
        save_checkpoint(model, config, folder / layout, layout, max_shard_size="200KB")
    return model


def in_full_precision(folder: Path, dtype: torch.dtype = torch.float32) -> HiggsAudioModel:
    """The model of a checkpoint with the values of its quantised weights, and without any module of bitsandbytes."""
    quantised = HiggsAudioModel.from_pretrained(folder, dtype=dtype, quantise=NF4)
    model = HiggsAudioModel.from_pretrained(folder, dtype=dtype)
    with torch.no_grad():
        for name, linear in linears_of_layers(quantised).items():
            model.get_submodule(name).weight.copy_(dequantised(linear))
    return model


def random_batch(config: HiggsAudioConfig) -> HiggsAudioBatchInput:
    """Three samples of different lengths, one of them without a reference."""
    collator = ArabicVoiceCloningTrainingCollator.from_config(config)
    return collator([random_sample(*sizes) for sizes in ((5, 7, 4), (0, 3, 9), (12, 2, 2))])


def fill_adapter(model: nn.Module) -> None:
    """Give an adapter random weights, the same for equal names and shapes."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))
            elif "lora_" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def loss_and_gradients(model: nn.Module, batch: HiggsAudioBatchInput) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and the gradient of each trained tensor by name."""
    model.zero_grad()
    loss = model(**vars(batch)).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def largest_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest error of a gradient, relative to the largest entry of its tensor."""
    assert found.keys() == wanted.keys() and all(gradient.any() for gradient in wanted.values())
    return max(((found[name] - wanted[name]).abs().max() / wanted[name].abs().max()).item() for name in wanted)
