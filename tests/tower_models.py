"""Variants of the demo's model with an audio tower, which reads references as features."""

import shutil
from pathlib import Path
from typing import Any

import torch

from boson_multimodal.audio_processing.mel_features import ReferenceForm
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel

MEL_BINS, CHUNK_SECONDS, RATE = 16, 1, 16_000
FEATURES = ReferenceForm(codes=False, chunk_seconds=CHUNK_SECONDS)
BOTH = ReferenceForm(codes=True, chunk_seconds=CHUNK_SECONDS)
TOWER = {
    "num_mel_bins": MEL_BINS,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": 32,
    "max_source_positions": 50 * CHUNK_SECONDS,
}


def config_with_tower(model_folder: Path, **changes: Any) -> HiggsAudioConfig:
    fields = {
        "encode_whisper_embed": True,
        "encode_audio_in_tokens": False,
        "skip_audio_tower": False,
        "audio_encoder_config": TOWER,
        **changes,
    }
    return HiggsAudioConfig.from_dict({**HiggsAudioConfig.from_pretrained(model_folder).to_dict(), **fields})


def write_model(demo: Path, folder: Path, **changes: Any) -> Path:
    """Save a variant of the demo's model with random weights and a tower that reads one second at once."""
    shutil.copytree(demo / "model", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    HiggsAudioModel(config_with_tower(demo / "model", **changes)).save_pretrained(folder)
    return folder
