"""Log-mel features of reference clips, as Whisper makes them: what the audio tower reads."""

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
"""Samples per second of the waveforms that features are made of."""
MEL_HOP_SAMPLES = 160
"""Samples per mel frame: 100 frames a second."""
STATES_PER_SECOND = 50
"""Of the tower before pooling: ``max_source_positions`` is this times the seconds that it reads at once."""
TOKENS_AROUND_CHUNK = 2
"""``<|audio_bos|>`` and ``<|audio_eos|>``: what each further chunk of a reference adds to its own positions."""


@dataclass(frozen=True)
class ReferenceForm:
    """How the clip of an ``<|AUDIO|>`` slot reaches a model; that of an ``<|AUDIO_OUT|>`` slot is always codes.

    Attributes:
        codes: as codes.
        chunk_seconds: as features, of chunks of so many seconds; None: not as features.
    """

    codes: bool = True
    chunk_seconds: int | None = None

    @classmethod
    def of(cls, config: HiggsAudioConfig) -> "ReferenceForm":
        """The form that a checkpoint reads."""
        return cls(config.encode_audio_in_tokens, chunk_seconds(config) if config.reads_audio_features else None)

    def chunk_positions(self, samples: int, sampling_rate: int) -> list[int]:
        """Sequence positions that the features of each chunk of a reference take; none where it has no features."""
        if self.chunk_seconds is None:
            return []
        total = resampled_length(samples, sampling_rate, MEL_SAMPLE_RATE)
        chunk = self.chunk_seconds * MEL_SAMPLE_RATE
        lengths = [min(chunk, total - start) for start in range(0, total, chunk)]
        return [pooled_length(-(-length // MEL_HOP_SAMPLES)) for length in lengths]

    def waveforms(self, clips: Sequence[Clip], is_reference: Sequence[bool]) -> list[Tensor] | None:
        """(samples,) at ``MEL_SAMPLE_RATE`` of each reference, read now, and nothing of other clips; None: no features.

        Raises:
            InputError: if a clip cannot be read.
        """
        if self.chunk_seconds is None:
            return None
        pairs = zip(clips, is_reference, strict=True)
        return [read_waveform(clip).resampled(MEL_SAMPLE_RATE) if wanted else torch.zeros(0) for clip, wanted in pairs]


AS_CODES = ReferenceForm()
"""As the released model reads references."""


def chunk_seconds(config: HiggsAudioConfig) -> int:
    """Whole seconds of audio that a checkpoint's tower reads at once."""
    return config.audio_encoder_config.max_source_positions // STATES_PER_SECOND


def build_feature_extractor(config: HiggsAudioConfig) -> WhisperFeatureExtractor:
    """The feature extractor that a checkpoint's tower was made for; nothing is downloaded."""
    return WhisperFeatureExtractor(
        feature_size=config.audio_encoder_config.num_mel_bins,
        sampling_rate=MEL_SAMPLE_RATE,
        hop_length=MEL_HOP_SAMPLES,
        chunk_length=chunk_seconds(config),
    )


def extract_features(extractor: WhisperFeatureExtractor, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features of at least one waveform, none longer than the extractor's chunk.

    Each is padded with silence to a whole chunk first, as Whisper and the original do: the last frames see it.

    Returns:
        (clips, mel bins, frames) float32 features, and (clips, frames) int32, 1 at the frames of the clip.
    """
    found = extractor(
        [waveform.numpy() for waveform in waveforms],
        sampling_rate=MEL_SAMPLE_RATE,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="np",
    )
    return torch.from_numpy(found["input_features"]), torch.from_numpy(found["attention_mask"])
