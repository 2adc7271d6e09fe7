"""Log-mel features of reference clips, as Whisper makes them: what the audio tower reads."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.audio_tower import pooled_length
from boson_multimodal.model.higgs_audio.configuration_higgs_audio import HiggsAudioConfig

MEL_SAMPLE_RATE = 16_000
"""Samples per second of the waveforms that features are made of."""
MEL_HOP_SAMPLES = 160
"""Samples per mel frame: 100 frames a second."""
STATES_PER_SECOND = 50
"""Of the tower before pooling: ``max_source_positions`` is this times the seconds that it reads at once."""


def chunk_positions(samples: int, chunk_seconds: int) -> list[int]:
    """Sequence positions of each chunk of a clip that has so many samples at ``MEL_SAMPLE_RATE``."""
    chunk = chunk_seconds * MEL_SAMPLE_RATE
    lengths = [min(chunk, samples - start) for start in range(0, samples, chunk)]
    return [pooled_length(-(-length // MEL_HOP_SAMPLES)) for length in lengths]


def build_feature_extractor(config: HiggsAudioConfig) -> WhisperFeatureExtractor:
    """The feature extractor that a checkpoint's tower was made for; nothing is downloaded.

    Raises:
        InputError: if the tower reads less than a second at once.
    """
    states = config.audio_encoder_config.max_source_positions
    if states < STATES_PER_SECOND:
        raise InputError(
            f"config.json: audio_encoder_config.max_source_positions is {states}, less than a second of audio; it is "
            f"{STATES_PER_SECOND} times the seconds that the tower reads at once (1500 in Whisper)"
        )
    return WhisperFeatureExtractor(
        feature_size=config.audio_encoder_config.num_mel_bins,
        sampling_rate=MEL_SAMPLE_RATE,
        hop_length=MEL_HOP_SAMPLES,
        chunk_length=states // STATES_PER_SECOND,
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
