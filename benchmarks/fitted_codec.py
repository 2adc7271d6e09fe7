"""Fits a small codec of the released form to speech, for measures that need trained weights.

    OMP_NUM_THREADS=1 python -m benchmarks.fitted_codec --clips FOLDER --output_dir DIR [--steps 400]

Its encoder and decoder have the layers of the released codec (the same kernels, strides and dilations, so the decoder
hears as far), but a sixteenth and an eighth of its channels. They are fitted together to the waveforms and to their
spectra; there is no adversary and no HuBERT. Then the codebooks are drawn from the latents, one after the other, by
k-means of what is left. The folder that it writes is a codec as transformers has it. It is no good codec to listen to.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import HiggsAudioV2TokenizerConfig, HiggsAudioV2TokenizerModel

from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.sound_files import Clip

RATE, FRAME, RATIOS = 24_000, 960, [8, 5, 4, 2, 3]
ENCODER_CHANNELS, DECODER_CHANNELS, LATENT, SEMANTIC = 4, 128, 64, 32
CODES, CODEBOOKS, KMEANS_ROUNDS = 256, 8, 12
FRAMES_OF_A_CUT, CUTS = 24, 4
SPECTRA = (256, 1024, 2048)
SUFFIXES = (".wav", ".flac")


def sound_files(folder: Path) -> list[Path]:
    """Return the sound files of a folder and its folders, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)


def read_clips(folder: Path) -> list[Tensor]:
    """Read each clip of a folder as (samples,), with its peak at 0.7."""
    waves = [read_waveform(Clip(path, 0.0, None)).resampled(RATE) for path in sound_files(folder)]
    return [0.7 * wave / wave.abs().max().clamp(min=1e-3) for wave in waves]


def new_codec() -> HiggsAudioV2TokenizerModel:
    """Return the codec with random weights whose sizes neither explode nor vanish."""
    ratios = {"downsampling_ratios": RATIOS, "upsampling_ratios": RATIOS}
    acoustic = {"encoder_hidden_size": ENCODER_CHANNELS, "decoder_hidden_size": DECODER_CHANNELS, "hidden_size": LATENT}
    semantic = {"hidden_size": SEMANTIC, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    semantic |= {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    config = HiggsAudioV2TokenizerConfig(
        target_bandwidths=[CODEBOOKS * RATE / FRAME * math.log2(CODES) / 1000],
        sample_rate=RATE,
        codebook_size=CODES,
        codebook_dim=LATENT + SEMANTIC,
        acoustic_model_config={"model_type": "dac", **acoustic, **ratios},
        semantic_model_config={"model_type": "hubert", "mask_time_prob": 0.0, **semantic},
    )
    codec = HiggsAudioV2TokenizerModel(config).eval()
    for network in (codec.acoustic_encoder, codec.acoustic_decoder):
        for layer in network.modules():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                nn.init.kaiming_normal_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
        for name, layer in network.named_modules():
            if name.split(".")[-1].startswith("res_unit"):
                layer.conv2.weight.data *= 0.3
    codec.acoustic_decoder.conv2.weight.data *= 0.1
    return codec


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the distance of (B, samples) waves: of their samples, and of their spectra and logarithmic spectra."""
    total = 2 * (found - wanted).abs().mean()
    for size in SPECTRA:
        window = torch.hann_window(size)
        one, other = (torch.stft(x, size, size // 4, window=window, return_complex=True).abs() for x in (found, wanted))
        total = total + 0.3 * (one - other).abs().mean() + ((one + 1e-2).log() - (other + 1e-2).log()).abs().mean()
    return total


def fit_networks(codec: HiggsAudioV2TokenizerModel, waves: list[Tensor], steps: int) -> None:
    """Fit encoder and decoder to cuts of the clips."""
    encoder, decoder, length = codec.acoustic_encoder, codec.acoustic_decoder, FRAMES_OF_A_CUT * FRAME
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, betas=(0.8, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * max(0.05, 1 - step / steps)
    )
    long = [wave for wave in waves if wave.numel() > length]
    for step in range(steps):
        chosen = [long[i] for i in torch.randint(len(long), (CUTS,)).tolist()]
        starts = [int(torch.randint(wave.numel() - length, ())) for wave in chosen]
        cuts = torch.stack([wave[start : start + length] for wave, start in zip(chosen, starts, strict=True)])
        latents = encoder(cuts[:, None])
        found = decoder(latents)[:, 0]
        loss = distance(found[:, :length], cuts[:, : found.shape[1]])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: distance {loss.item():.3f}", flush=True)


@torch.no_grad()
def draw_codebooks(codec: HiggsAudioV2TokenizerModel, waves: list[Tensor]) -> None:
    """Draw the codebooks from the latents of the clips; the semantic half stays empty."""
    left = torch.cat([codec.acoustic_encoder(wave[None, None])[0].T for wave in waves])
    for layer in (codec.fc, codec.fc2, *(q for z in codec.quantizer.quantizers for q in (z.project_in, z.project_out))):
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[:LATENT, :LATENT] = torch.eye(LATENT)
    for quantizer in codec.quantizer.quantizers:
        centres = left[torch.randperm(len(left))[:CODES]].clone()
        for _ in range(KMEANS_ROUNDS):
            nearest = torch.cdist(left, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, left)
            counts = torch.bincount(nearest, minlength=CODES)[:, None]
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        quantizer.codebook.embed.zero_()
        quantizer.codebook.embed[:, :LATENT] = centres
        left = left - centres[torch.cdist(left, centres).argmin(1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="Folder with clips of speech.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Where the codec is written.")
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    torch.manual_seed(0)
    waves, codec = read_clips(args.clips), new_codec()
    print(f"{len(waves)} clips, {sum(wave.numel() for wave in waves) / RATE:.0f} s")
    fit_networks(codec, waves, args.steps)
    draw_codebooks(codec, waves)
    codec.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
