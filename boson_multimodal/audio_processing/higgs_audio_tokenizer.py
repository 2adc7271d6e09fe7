"""The codec: waveform <-> codes, 8 codebooks at 25 frames per second."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from transformers import HiggsAudioV2TokenizerConfig, HiggsAudioV2TokenizerModel

from boson_multimodal.errors import InputError, raise_if_any

HASH_BLOCK_BYTES = 1 << 20


class HiggsAudioTokenizer:
    """A loaded codec in inference mode.

    Attributes:
        sampling_rate: samples per second that it reads and writes.
        num_codebooks, codebook_size: K, and the codes of each.
    """

    def __init__(self, model: HiggsAudioV2TokenizerModel) -> None:
        self.model = model.eval().requires_grad_(False)
        self.sampling_rate = model.config.sample_rate
        self.num_codebooks = model.config.num_quantizers
        self.codebook_size = model.config.codebook_size

    @torch.inference_mode()
    def encode(self, waveforms_BS: Tensor) -> Tensor:
        """(B, samples) waveforms of one length -> (B, K, T) codes.

        The codec has no mask: clips of different lengths must not be padded to share a call, since a second of
        padding changes most frames of the clip.
        """
        return self.model.encode(waveforms_BS.to(self.model.device)[:, None, :]).audio_codes.cpu()

    @torch.inference_mode()
    def decode(self, codes_KT: Tensor) -> Tensor:
        """(K, T) codes -> (samples,) waveform."""
        return self.model.decode(codes_KT[None].to(self.model.device)).audio_values[0, 0].cpu()


def load_higgs_audio_tokenizer(folder: Path, device: torch.device | str = "cpu") -> HiggsAudioTokenizer:
    """Load the codec from a local folder in transformers' layout.

    Raises:
        InputError: if tensors are missing, unexpected or misshapen, or the folder holds another kind of model.
    """
    codec_config(folder)
    model, info = HiggsAudioV2TokenizerModel.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True
    )
    offenders = [f"{key}: missing" for key in sorted(info["missing_keys"])]
    offenders += [f"{key}: unexpected" for key in sorted(info["unexpected_keys"])]
    offenders += [f"{entry[0]}: wrong shape" for entry in info["mismatched_keys"]]
    raise_if_any(f"{folder}: tensors do not fit the codec's configuration", offenders)
    return HiggsAudioTokenizer(model.to(device))


def codec_config(folder: Path) -> HiggsAudioV2TokenizerConfig:
    """The codec's configuration, without its weights.

    Raises:
        InputError: if the folder does not hold a codec in transformers' layout.
    """
    found, _ = HiggsAudioV2TokenizerConfig.get_config_dict(folder)
    if found.get("model_type") != HiggsAudioV2TokenizerConfig.model_type:
        raise InputError(
            f"{folder}: config.json has model_type {found.get('model_type')!r}, not "
            f"{HiggsAudioV2TokenizerConfig.model_type!r}: give the codec in transformers' layout "
            "(on the hub: the revision that --audio_tokenizer_revision is pinned to)"
        )
    return HiggsAudioV2TokenizerConfig.from_pretrained(folder)


def codec_identity(folder: Path) -> str:
    """16 hex digits that change with the codec's weights or configuration: codes of another codec mean nothing."""
    digest = hashlib.sha256()
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        digest.update(f"{path.name}:".encode())
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:16]
