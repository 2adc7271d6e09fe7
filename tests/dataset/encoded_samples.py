"""Codecs that stand in for the real one, and the codes of a dataset's samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
import torchaudio
from torch import Tensor

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from boson_multimodal.audio_processing.clips import frames_of
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.model.higgs_audio.packing import segment_lengths
from tests.chatml_files import audio, record

Load = Callable[..., ArabicVoiceCloningDataset]


class CountingCodec:
    """The demo's codec; ``calls`` holds how many clips each call took."""

    def __init__(self, codec: HiggsAudioTokenizer) -> None:
        self.codec = codec
        self.sampling_rate = codec.sampling_rate
        self.device = codec.device
        self.calls: list[int] = []

    def encode(self, waveforms_BS: Tensor) -> Tensor:
        self.calls.append(waveforms_BS.shape[0])
        return self.codec.encode(waveforms_BS)


class SumCodec:
    """A fast codec whose codes differ between clips: 25 frames a second."""

    sampling_rate = 24_000
    device = torch.device("cpu")

    def encode(self, waveforms_BS: Tensor) -> Tensor:
        frames = frames_of(waveforms_BS.shape[1], self.sampling_rate, FRAMES_PER_SECOND)
        mark = (waveforms_BS.abs().sum(dim=1) * 1000).long() % 1024
        return mark[:, None, None].expand(-1, 8, frames).contiguous()


def no_codec() -> HiggsAudioTokenizer:
    raise AssertionError("the codec is not needed")


def encoded(dataset: ArabicVoiceCloningDataset, codec: Any) -> ArabicVoiceCloningDataset:
    dataset.encode_missing(lambda: codec)
    return dataset


def codes_of(dataset: ArabicVoiceCloningDataset, index: int) -> list[Tensor]:
    """The codes of each clip of a sample."""
    sample = dataset[index]
    lengths = segment_lengths(sample.audio_ids_concat.shape[1], sample.audio_ids_start)
    return list(sample.audio_ids_concat.split(lengths.tolist(), dim=1))


def same_codes(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return len(found) == len(wanted) and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def encoded_alone(codec: HiggsAudioTokenizer, path: Path, offset: float = 0.0, duration: float | None = None) -> Tensor:
    """What the codec makes of a clip that it gets by itself, read here in the plainest way."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    first = round(offset * rate)
    last = len(samples) if duration is None else first + round(duration * rate)
    mono = torch.from_numpy(samples[first:last].mean(axis=1))
    return codec.encode(torchaudio.functional.resample(mono, rate, codec.sampling_rate)[None])[0]


def plain_record(sample_id: str = "a", **fields: Any) -> dict[str, Any]:
    return record(sample_id, audio("ref.wav"), audio("tgt.wav"), **fields)
