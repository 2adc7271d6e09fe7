"""The codec: it converts waveforms to codes (8 codebooks, 25 frames per second) and back."""

import hashlib
import inspect
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
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
"""Patterns of weight files. A codec's folder has one of them in addition to ``config.json``."""
HASH_BLOCK_BYTES = 1 << 20

if hasattr(HiggsAudioV2TokenizerModel, "_get_conv1d_layers"):
    # transformers caches its result by model, for the life of the process, so no codec that has encoded would be freed.
    HiggsAudioV2TokenizerModel._get_conv1d_layers = inspect.unwrap(HiggsAudioV2TokenizerModel._get_conv1d_layers)


class HiggsAudioTokenizer:
    """A loaded codec in inference mode.

    Attributes:
        sampling_rate: samples per second of its input and output.
        num_codebooks, codebook_size: K, and the number of codes of each codebook.
        samples_per_frame: how many samples of the output a frame becomes.
        frames_before, frames_after: how many frames before and after a frame its samples depend on.
    """

    def __init__(self, model: HiggsAudioV2TokenizerModel) -> None:
        self.model = model.eval().requires_grad_(False)
        self.sampling_rate = model.config.sample_rate
        self.num_codebooks = model.config.num_quantizers
        self.codebook_size = model.config.codebook_size
        self.samples_per_frame, self.frames_before, self.frames_after = _reach_of_decoder(model.acoustic_decoder)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device

    @torch.inference_mode()
    def encode(self, waveforms_BS: Tensor) -> Tensor:
        """Encode (B, samples) waveforms of the same length to (B, K, T) codes.

        The codec has no mask, so clips of different lengths must not be padded into one batch: a second of padding
        changes most frames of a clip.
        """
        return self.model.encode(waveforms_BS.to(self.device)[:, None, :]).audio_codes.cpu()

    @torch.inference_mode()
    def decode(self, codes_KT: Tensor) -> Tensor:
        """Decode (K, T) codes to a (samples,) waveform."""
        return self.model.decode(codes_KT[None].to(self.device)).audio_values[0, 0].cpu()

    @torch.inference_mode()
    def decode_known(self, codes_KT: Tensor, known_KT: Tensor) -> Tensor:
        """Decode (K, T) codes of which only some are known. Each other code adds nothing to the sum of its frame.

        The first codebooks of a frame hold most of its sound, so a frame that is known in part is a better guess than
        silence.
        """
        codes_KT, known_KT = codes_KT.to(self.device), known_KT.to(self.device)
        quantizers = self.model.quantizer.quantizers
        vectors_TD = sum(
            quantizer.decode(codes[None])[0].T * known[:, None]
            for quantizer, codes, known in zip(quantizers, codes_KT, known_KT, strict=True)
        )
        return self.model.acoustic_decoder(self.model.fc2(vectors_TD).T[None])[0, 0].cpu()


def _reach_of_decoder(decoder: nn.Module) -> tuple[int, int, int]:
    """Return the samples of a frame, and how many frames before and after it they depend on.

    The decoder is one chain of convolutions, with short cuts that reach less far. The samples of frame 0 are followed
    back through the layers, from the last to the first.
    """
    layers = [layer for layer in decoder.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)]
    samples = math.prod(layer.stride[0] for layer in layers if isinstance(layer, nn.ConvTranspose1d))
    first, last = 0, samples - 1
    for layer in reversed(layers):
        stride, padding = layer.stride[0], layer.padding[0]
        reach = layer.dilation[0] * (layer.kernel_size[0] - 1)
        if isinstance(layer, nn.ConvTranspose1d):  # input i reaches the outputs from i * stride - padding on
            first, last = -((reach - padding - first) // stride), (last + padding) // stride
        else:
            first, last = first * stride - padding, last * stride - padding + reach
    return samples, -first, last


def load_higgs_audio_tokenizer(folder: Path, device: torch.device | str = "cpu") -> HiggsAudioTokenizer:
    """Load the codec from a local folder in either published format. The global random state does not change.

    Raises:
        InputError: if tensors are missing, unexpected or have a wrong shape, if a file is missing or broken, or if the
            folder holds another kind of model.
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
        with torch.random.fork_rng(devices=[]):  # transformers initialises random weights first
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
    """Read the codec's configuration without its weights. Both formats give a configuration of transformers.

    Raises:
        InputError: if the folder has neither format, or a field of the original's configuration is wrong.
    """
    if codec_layout(folder) == "original":
        return read_original_config(folder)
    return HiggsAudioV2TokenizerConfig.from_pretrained(folder)


def codec_identity(folder: Path) -> str:
    """Return 16 hex digits that identify the codec's weights and configuration. Codes are valid for one codec only.

    The two formats of the same codec have different identities: merging weight norm changes weights by rounding, so the
    two formats have separate caches.

    Raises:
        InputError: if the folder has neither format.
    """
    digest = hashlib.sha256()
    weights = ORIGINAL_WEIGHTS if codec_layout(folder) == "original" else TRANSFORMERS_WEIGHTS
    for path in (folder / "config.json", *sorted(folder.glob(weights))):
        digest.update(f"{path.name}:".encode())
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:16]
