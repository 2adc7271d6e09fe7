"""The audio tower: log-mel frames of reference clips -> positions of the backbone, 25 a second.

Parameter names and arithmetic are those of Boson's original release. The layers are transformers' Whisper encoder
layers; around them two things differ from its encoder, which ignores a mask and does not pool:

- keys at the padding of a clip are masked in every layer;
- the states are averaged in pairs over time before the final norm.
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
"""Mel frames per state of the second convolution: 100 a second come in, 50 go through the layers."""
POOLING = 2
"""States that are averaged to one position: 25 a second leave."""


def convolved_length(mel_frames: Tensor | int) -> Tensor | int:
    """States that the two convolutions make of so many mel frames."""
    return (mel_frames - 1) // CONVOLUTION_STRIDE + 1


def pooled_length(mel_frames: Tensor | int) -> Tensor | int:
    """Sequence positions that a clip of so many mel frames takes (0 for fewer than 3)."""
    return (convolved_length(mel_frames) - POOLING) // POOLING + 1


class HiggsAudioEncoder(nn.Module):
    """Whisper's encoder with a mask and pooling. Its states are ``d_model`` wide."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        # A copy: the whole model's choice of attention, and a kernel that takes no mask, must not reach these layers.
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
                ``2 * max_source_positions`` frames. Moved to the weights' device and type.
            audio_feature_attention_mask: (clips, frames), 0 at padding; None means no padding. On the CPU it costs an
                accelerator no synchronisation, and padding that no clip needs costs no time.

        Returns:
            (clips, pooled frames, d_model) states, noise from each clip's length on; and those lengths, (clips,), on
            the device of the mask.

        Raises:
            ValueError: if the number of mel bins, of frames, or the mask's shape does not fit.
        """
        clips, mel_bins, frames = audio_features.shape
        self._check(mel_bins, frames, audio_feature_attention_mask, (clips, frames))
        weight = self.conv1.weight
        if audio_feature_attention_mask is None:
            mel_lengths = torch.full((clips,), frames)
        else:
            mel_lengths = audio_feature_attention_mask.sum(dim=1)
        if clips and mel_lengths.device.type == "cpu":
            # The last state of the longest clip sees one frame beyond its own two; Whisper pads to 30 s.
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
                f"audio_feature_attention_mask has shape {tuple(mask.shape)}; audio_features make it {mask_shape}"
            )


class HiggsAudioFeatureProjector(nn.Module):
    """The tower's states -> the width D of the backbone."""

    def __init__(self, config: HiggsAudioConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.audio_encoder_config.d_model, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """(..., d_model) -> (..., D)."""
        return self.linear(states)
