"""The codec: waveform <-> codes, 8 codebooks at 25 frames per second."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import HiggsAudioV2TokenizerConfig, HiggsAudioV2TokenizerModel

from boson_multimodal.audio_processing.codec_layouts import (
    ORIGINAL_WEIGHTS,
    codec_layout,
    read_original_config,
    read_original_tensors,
)
from boson_multimodal.errors import InputError, raise_if_any

TRANSFORMERS_WEIGHTS = "*.safetensors"
CODEC_WEIGHTS = (TRANSFORMERS_WEIGHTS, ORIGINAL_WEIGHTS)
"""One of these lies beside a codec's ``config.json``."""
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

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.model.device

    @torch.inference_mode()
    def encode(self, waveforms_BS: Tensor) -> Tensor:
        """(B, samples) waveforms of one length -> (B, K, T) codes.

        The codec has no mask: clips of different lengths must not be padded to share a call, since a second of
        padding changes most frames of the clip.
        """
        return self.model.encode(waveforms_BS.to(self.device)[:, None, :]).audio_codes.cpu()

    @torch.inference_mode()
    def decode(self, codes_KT: Tensor) -> Tensor:
        """(K, T) codes -> (samples,) waveform."""
        return self.model.decode(codes_KT[None].to(self.device)).audio_values[0, 0].cpu()


def load_higgs_audio_tokenizer(folder: Path, device: torch.device | str = "cpu") -> HiggsAudioTokenizer:
    """Load the codec from a local folder in either published format. The caller's random state is kept.

    Raises:
        InputError: if tensors are missing, unexpected or misshapen, a file is missing or broken, or the folder holds
            another kind of model.
    """
    folder = Path(folder)
    if codec_layout(folder) == "original":
        with torch.device("meta"):
            model = HiggsAudioV2TokenizerModel(read_original_config(folder))
        model.load_state_dict(read_original_tensors(folder / ORIGINAL_WEIGHTS, model), assign=True)
    else:
        model = _load_transformers_layout(folder)
    return HiggsAudioTokenizer(model.to(device))


def _load_transformers_layout(folder: Path) -> HiggsAudioV2TokenizerModel:
    codec_config(folder)
    if not any(folder.glob(TRANSFORMERS_WEIGHTS)):
        raise InputError(f"{folder}: no {TRANSFORMERS_WEIGHTS} in it, and its config.json is transformers'")
    try:
        with torch.random.fork_rng(devices=[]):  # it draws weights before it reads them
            model, info = HiggsAudioV2TokenizerModel.from_pretrained(
                folder, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except SafetensorError as error:
        raise InputError(f"{folder}: {TRANSFORMERS_WEIGHTS} cannot be read ({error}); fetch it again") from error
    offenders = [f"{key}: missing" for key in sorted(info["missing_keys"])]
    offenders += [f"{key}: unexpected" for key in sorted(info["unexpected_keys"])]
    offenders += [f"{entry[0]}: wrong shape" for entry in info["mismatched_keys"]]
    raise_if_any(f"{folder}: tensors do not fit the codec's configuration", offenders)
    return model


def codec_config(folder: Path) -> HiggsAudioV2TokenizerConfig:
    """The codec's configuration, without its weights; both formats give transformers' configuration.

    Raises:
        InputError: if the folder holds a codec in neither format, or a field of the original's is wrong.
    """
    if codec_layout(folder) == "original":
        return read_original_config(folder)
    return HiggsAudioV2TokenizerConfig.from_pretrained(folder)


def codec_identity(folder: Path) -> str:
    """16 hex digits that change with the codec's weights or configuration: codes of another codec mean nothing.

    The same codec in the other format is another codec to it: merging weight norm rounds.

    Raises:
        InputError: if the folder holds a codec in neither format.
    """
    digest = hashlib.sha256()
    weights = ORIGINAL_WEIGHTS if codec_layout(folder) == "original" else TRANSFORMERS_WEIGHTS
    for path in (folder / "config.json", *sorted(folder.glob(weights))):
        digest.update(f"{path.name}:".encode())
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:16]
