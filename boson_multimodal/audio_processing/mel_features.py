"""Compute Whisper's log-mel features of reference clips, the input of the audio tower."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from boson_multimodal.audio_processing.clips import read_waveform, resampled_length
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.model.higgs_audio.audio_tower import pooled_length
from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig

MEL_SAMPLE_RATE = 16_000
"""Samples per second of the waveforms from which features are computed."""
MEL_HOP_SAMPLES = 160
"""Samples per mel frame: 100 frames a second."""
STATES_PER_SECOND = 50
"""States per second of the tower before pooling. ``max_source_positions`` is this number times the seconds that the
tower reads at once."""
TOKENS_AROUND_CHUNK = 2
"""Each further chunk of a reference takes its own positions plus these two: ``<|audio_bos|>`` and ``<|audio_eos|>``."""


@dataclass(frozen=True)
class ReferenceForm:
    """The form in which a model takes the clip of an ``<|AUDIO|>`` slot. An ``<|AUDIO_OUT|>`` slot always takes codes.

    Attributes:
        codes: whether the model takes codes.
        chunk_seconds: the seconds of a chunk if the model takes features, else None.
    """

    codes: bool = True
    chunk_seconds: int | None = None

    @classmethod
    def of(cls, config: HiggsAudioConfig) -> "ReferenceForm":
        """Return the form that a checkpoint's configuration asks for."""
        return cls(config.encode_audio_in_tokens, chunk_seconds(config) if config.reads_audio_features else None)

    def chunk_positions(self, samples: int, sampling_rate: int) -> list[int]:
        """Return the number of sequence positions of each chunk of a reference; an empty list without features."""
        if self.chunk_seconds is None:
            return []
        total = resampled_length(samples, sampling_rate, MEL_SAMPLE_RATE)
        chunk = self.chunk_seconds * MEL_SAMPLE_RATE
        lengths = [min(chunk, total - start) for start in range(0, total, chunk)]
        return [pooled_length(-(-length // MEL_HOP_SAMPLES)) for length in lengths]

    def waveforms(self, clips: Sequence[Clip], is_reference: Sequence[bool]) -> list[Tensor] | None:
        """Read the (samples,) of each reference at ``MEL_SAMPLE_RATE``; other clips get an empty tensor.

        Returns:
            One tensor for each clip, or None if the model takes no features.

        Raises:
            InputError: if a clip cannot be read.
        """
        if self.chunk_seconds is None:
            return None
        pairs = zip(clips, is_reference, strict=True)
        return [read_waveform(clip).resampled(MEL_SAMPLE_RATE) if wanted else torch.zeros(0) for clip, wanted in pairs]


AS_CODES = ReferenceForm()
"""The form that the released model takes."""


def chunk_seconds(config: HiggsAudioConfig) -> int:
    """Return the whole seconds of audio that a checkpoint's tower reads at once."""
    return config.audio_encoder_config.max_source_positions // STATES_PER_SECOND


def build_feature_extractor(config: HiggsAudioConfig) -> WhisperFeatureExtractor:
    """Return the feature extractor for a checkpoint's tower. Nothing is downloaded."""
    return WhisperFeatureExtractor(
        feature_size=config.audio_encoder_config.num_mel_bins,
        sampling_rate=MEL_SAMPLE_RATE,
        hop_length=MEL_HOP_SAMPLES,
        chunk_length=chunk_seconds(config),
    )


def extract_features(extractor: WhisperFeatureExtractor, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the features of one or more waveforms, none longer than the extractor's chunk.

    Each waveform is first padded with silence to a whole chunk, like in Whisper and the original. The padding affects
    the last frames.

    Returns:
        (clips, mel bins, frames) float32 features, and their (clips, frames) int32 mask, 1 at frames of the clip.
    """
    found = extractor(
        [waveform.numpy() for waveform in waveforms],
        sampling_rate=MEL_SAMPLE_RATE,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="np",
    )
    return torch.from_numpy(found["input_features"]), torch.from_numpy(found["attention_mask"])
