"""The audio tower converts log-mel frames of reference clips to positions of the backbone, 25 a second.

Parameter names and arithmetic are those of Boson's original release. The layers are transformers' Whisper encoder
layers. The tower differs from transformers' encoder in two ways:

- Keys at the padding of a clip are masked in every layer. The encoder ignores a mask.
- The states are averaged in pairs over time before the final norm. The encoder does not pool.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.transfer import to_device

CONVOLUTION_STRIDE = 2
"""The stride of the second convolution: 100 mel frames a second become 50 states a second."""
POOLING = 2
"""The number of states that are averaged to one position: 50 states a second become 25 positions a second."""


def convolved_length(mel_frames: Tensor | int) -> Tensor | int:
    """Return the number of states that the two convolutions compute from ``mel_frames``."""
    return (mel_frames - 1) // CONVOLUTION_STRIDE + 1


def pooled_length(mel_frames: Tensor | int) -> Tensor | int:
    """Return the number of sequence positions of a clip with ``mel_frames`` (0 for fewer than 3)."""
    return (convolved_length(mel_frames) - POOLING) // POOLING + 1


class HiggsAudioEncoder(nn.Module):
    """Whisper's encoder with a mask and pooling. Its output has width ``d_model``."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        # A copy with its own setting: the attention chosen for the whole model may be a kernel that takes no mask.
        config = copy.deepcopy(config)
        config._attn_implementation = "sdpa"
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=CONVOLUTION_STRIDE, padding=1)
        self.embed_positions = nn.Embedding(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList(WhisperEncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, audio_features: Tensor, audio_feature_attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode clips.

        Args:
            audio_features: (clips, mel bins, frames) log-mel features, padded on the right; at most
                ``2 * max_source_positions`` frames. They are moved to the weights' device and type.
            audio_feature_attention_mask: (clips, frames), 0 at padding; None means no padding. A mask on the CPU
                avoids a synchronisation with the accelerator, and padding beyond the longest clip is then cut off.

        Returns:
            (clips, pooled frames, d_model) states; they are noise beyond each clip's length. And the (clips,) lengths,
            on the device of the mask.

        Raises:
            ValueError: if the number of mel bins, the number of frames, or the mask's shape does not fit.
        """
        clips, mel_bins, frames = audio_features.shape
        self._check(mel_bins, frames, audio_feature_attention_mask, (clips, frames))
        weight = self.conv1.weight
        if audio_feature_attention_mask is None:
            mel_lengths = torch.full((clips,), frames)
        else:
            mel_lengths = audio_feature_attention_mask.sum(dim=1)
        if clips and mel_lengths.device.type == "cpu":
            # Cut off padding (Whisper pads to 30 s), but keep one frame more than the longest clip's states need: the
            # last state sees one frame beyond its own two.
            frames = min(frames, CONVOLUTION_STRIDE * int(convolved_length(mel_lengths.max())) + 1)
        states = convolved_length(frames)
        is_key = torch.arange(states, device=mel_lengths.device) < convolved_length(mel_lengths)[:, None]
        is_key = to_device(is_key, weight.device)[:, None, None, :].expand(-1, -1, states, -1)

        hidden = to_device(audio_features[..., :frames], weight.device).to(weight.dtype)
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(hidden)))).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[:states]
        for layer in self.layers:
            hidden = layer(hidden, is_key)
        pooled = F.avg_pool1d(hidden.transpose(1, 2), POOLING, POOLING).transpose(1, 2)
        return self.layer_norm(pooled), pooled_length(mel_lengths)

    def _check(self, mel_bins: int, frames: int, mask: Tensor | None, mask_shape: tuple[int, int]) -> None:
        longest = CONVOLUTION_STRIDE * self.embed_positions.num_embeddings
        if mel_bins != self.conv1.in_channels:
            raise ValueError(f"audio_features have {mel_bins} mel bins; the tower reads {self.conv1.in_channels}")
        if not CONVOLUTION_STRIDE < frames <= longest:
            raise ValueError(f"audio_features have {frames} frames; the tower reads 3 to {longest}")
        if mask is not None and mask.shape != mask_shape:
            raise ValueError(
                f"audio_feature_attention_mask has shape {tuple(mask.shape)}; audio_features ask for {mask_shape}"
            )


class HiggsAudioFeatureProjector(nn.Module):
    """The linear layer from the tower's width to the width D of the backbone."""

    def __init__(self, config: HiggsAudioConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.audio_encoder_config.d_model, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """Project (..., d_model) to (..., D)."""
        return self.linear(states)
