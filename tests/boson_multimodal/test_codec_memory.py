"""A codec that is no longer used is freed, also after it has encoded."""

import weakref
from pathlib import Path

import torch

from boson_multimodal.audio_processing.higgs_audio_tokenizer import load_higgs_audio_tokenizer


def test_a_codec_that_has_encoded_and_decoded_is_freed_with_its_last_reference(demo: Path) -> None:
    codec = load_higgs_audio_tokenizer(demo / "audio_tokenizer")
    codec.decode(codec.encode(torch.zeros(1, codec.sampling_rate))[0])
    model = weakref.ref(codec.model)
    weights = weakref.ref(next(codec.model.parameters()))
    del codec
    assert model() is None and weights() is None
