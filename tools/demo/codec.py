"""Builds the demo's codec: a tiny copy of the release's, with random networks fitted to speech so that codes differ."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import HiggsAudioV2TokenizerConfig, HiggsAudioV2TokenizerModel

from boson_multimodal.audio_processing.codec_layouts import (
    ORIGINAL_WEIGHTS,
    UNUSED_TENSORS,
    Layout,
    original_config,
    original_tensors,
)
from tools.demo.speech import SAMPLE_RATE, Voice, spoken_sentences, synthesise

N_CODEBOOKS, CODEBOOK_SIZE, CODEBOOK_DIM = 8, 1024, 16


ACOUSTIC_DIM = SEMANTIC_DIM = 32


def _codec_config() -> HiggsAudioV2TokenizerConfig:
    """Return a tiny config, with rates as released: 24 kHz, hop 960 (25 frames/s), 8 codes of 10 bits (2 kbit/s)."""
    ratios = {"downsampling_ratios": [8, 5, 4, 2, 3], "upsampling_ratios": [8, 5, 4, 2, 3]}
    acoustic = {"encoder_hidden_size": 4, "decoder_hidden_size": 64, "hidden_size": ACOUSTIC_DIM}
    semantic = {"hidden_size": SEMANTIC_DIM, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    semantic |= {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return HiggsAudioV2TokenizerConfig(
        target_bandwidths=[0.5, 1, 1.5, 2],
        sample_rate=SAMPLE_RATE,
        codebook_size=CODEBOOK_SIZE,
        codebook_dim=CODEBOOK_DIM,
        acoustic_model_config={"model_type": "dac", **acoustic, **ratios},
        semantic_model_config={"model_type": "hubert", "mask_time_prob": 0.0, **semantic},
    )


def _calibration_audio(seed: int) -> Iterator[np.ndarray]:
    """Yield clips of (samples,) float, about 460 s in all: speech by other voices, clean and noisy, and noise alone."""
    rng = np.random.default_rng([seed, 1])
    for _ in range(4):
        scale = rng.uniform(0.92, 1.25)
        pitch = 110.0 * (scale / 0.95) ** 3 * rng.uniform(0.85, 1.15)
        voice = Voice(pitch, rng.uniform(0.1, 0.35), scale, rng.uniform(0.02, 0.25), rng.uniform(0.8, 1.2))
        for text in spoken_sentences():
            wave = synthesise(text, voice, rng) * 10.0 ** rng.uniform(-0.8, 0.1)
            level = 10.0 ** rng.uniform(-4.5, -1.5)  # a real recording is never silent between words
            yield wave + rng.normal(0.0, level, len(wave))
    for _ in range(16):
        colour = rng.uniform(0.0, 0.95)
        white = rng.normal(0.0, 1.0, (2 * SAMPLE_RATE, 1))
        yield 10.0 ** rng.uniform(-4.0, -0.8) * (white[1:, 0] + colour * white[:-1, 0])


@torch.no_grad()
def _features(codec: HiggsAudioV2TokenizerModel, waves: list[np.ndarray]) -> torch.Tensor:
    """Return the inputs of `fc` for all frames of all clips: (frames, 64) float64."""
    caught = []
    hook = codec.fc.register_forward_pre_hook(lambda _module, args: caught.append(args[0][0].double()))
    for wave in waves:
        codec.encode(torch.from_numpy(wave).float()[None, None], bandwidth=codec.config.target_bandwidths[0])
    hook.remove()
    return torch.cat(caught)


@torch.no_grad()
def _scale_convolutions(codec: HiggsAudioV2TokenizerModel) -> None:
    """Give the acoustic layers unit gain: with the default std of 0.02 any input vanishes over the 40 layers."""
    for part in (codec.acoustic_encoder, codec.acoustic_decoder):
        for name, module in part.named_modules():
            if isinstance(module, torch.nn.Conv1d):
                fan_in = module.in_channels * module.kernel_size[0]
                torch.nn.init.normal_(module.weight, std=(0.3 if "res_unit" in name else 1.0) / math.sqrt(fan_in))
    codec.acoustic_encoder.conv1.weight *= 10.0  # speech at its usual level reaches the non-linear part of Snake


@torch.no_grad()
def _whiten(codec: HiggsAudioV2TokenizerModel, features: torch.Tensor) -> None:
    """Set fc to centre and whiten `features` (frames, 64) in their 16 main directions, and fc1, fc2 to invert that."""
    mean, std = features.mean(0), features.std(0) + 1e-6
    values, vectors = torch.linalg.eigh(((features - mean) / std).T.cov())
    values, vectors = values[-CODEBOOK_DIM:].sqrt(), vectors[:, -CODEBOOK_DIM:]
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # eigh's signs are arbitrary
    basis = torch.nn.init.orthogonal_(torch.empty(features.shape[1], CODEBOOK_DIM, dtype=torch.float64))
    weight = basis @ (vectors / values).T / std
    codec.fc.weight.copy_(weight)
    codec.fc.bias.copy_(-weight @ mean)
    back = std[:, None] * (vectors * values) @ basis.T
    for layer, rows in ((codec.fc2, slice(0, ACOUSTIC_DIM)), (codec.fc1, slice(ACOUSTIC_DIM, None))):
        layer.weight.copy_(back[rows])
        layer.bias.copy_(mean[rows])
    for quantizer in codec.quantizer.quantizers:
        rotation = torch.nn.init.orthogonal_(torch.empty(CODEBOOK_DIM, CODEBOOK_DIM, dtype=torch.float64))
        quantizer.project_in.weight.copy_(rotation @ basis.T)
        quantizer.project_out.weight.copy_(basis @ rotation.T)


@torch.no_grad()
def _draw_codebooks(codec: HiggsAudioV2TokenizerModel, features: torch.Tensor) -> None:
    """Draw each codebook from the residuals of `features` (frames, 64) after the codebooks before it.

    Each codebook uses different frames: if a frame is an entry of one codebook, its later residuals are zero.
    """
    residual = codec.fc(features.float())
    order = torch.randperm(len(features))
    if len(order) < N_CODEBOOKS * CODEBOOK_SIZE:
        raise RuntimeError(f"{len(order)} calibration frames for {N_CODEBOOKS} codebooks of {CODEBOOK_SIZE}")
    for i, quantizer in enumerate(codec.quantizer.quantizers):
        chosen = order[i * CODEBOOK_SIZE : (i + 1) * CODEBOOK_SIZE]
        entries = quantizer.project_in(residual[chosen])
        entries = entries + 0.01 * entries.std() * torch.randn_like(entries)
        quantizer.codebook.embed.copy_(entries)
        quantizer.codebook.embed_avg.copy_(entries)
        quantizer.codebook.cluster_size.fill_(1.0)
        residual = residual - quantizer.decode(quantizer.encode(residual.T[None]))[0].T


@torch.no_grad()
def _level_decoder(codec: HiggsAudioV2TokenizerModel, clips: list[np.ndarray]) -> None:
    """Scale the last layer so that the decoded clips have mean 0 and peak 0.5: they are noise, but valid WAV."""
    waves = [codec.decode(codec.encode(torch.from_numpy(c).float()[None, None])[0])[0].flatten() for c in clips]
    wave = torch.cat(waves)
    last, gain = codec.acoustic_decoder.conv2, 0.5 / (wave - wave.mean()).abs().max()
    last.weight *= gain
    last.bias.copy_((last.bias - wave.mean()) * gain)


def build_codec(codec_dir: Path, clips: list[np.ndarray], seed: int, layout: Layout = "transformers") -> None:
    """Write the tiny codec: random networks, fitted to the clips and to other speech so that codes of frames differ.

    transformers initialises the codebooks with zeros, which would give every frame of every clip the same codes.
    """
    torch.manual_seed(seed)
    codec = HiggsAudioV2TokenizerModel(_codec_config()).eval()
    _scale_convolutions(codec)
    calibration = _features(codec, list(_calibration_audio(seed)))
    _whiten(codec, torch.cat([calibration, _features(codec, clips)]))
    # Entries are not drawn from the demo's clips: a frame equal to an entry has no residual for the later codebooks.
    _draw_codebooks(codec, calibration)
    _level_decoder(codec, clips)
    if layout == "original":
        write_original_codec(codec, codec_dir)
    else:
        codec.save_pretrained(codec_dir)


def write_original_codec(codec: HiggsAudioV2TokenizerModel, folder: Path) -> None:
    """Write the codec in Boson's original format: ``model.pth`` and a ``config.json`` in that format."""
    tensors = original_tensors(codec)
    tensors |= {name: torch.zeros(codec.config.semantic_hidden_size) for name in UNUSED_TENSORS}  # as in the release
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / ORIGINAL_WEIGHTS)
    content = json.dumps(original_config(codec.config), indent=2) + "\n"
    (folder / "config.json").write_text(content, encoding="utf-8")
