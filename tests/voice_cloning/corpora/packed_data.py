"""Prepared data for tests: packing with the demo's models, and comparing with what the file gives."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.audio_processing.higgs_audio_tokenizer import codec_identity
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.prepared_data.prepared_dataset import PreparedDataset
from boson_multimodal.sample_dataset import SampleDataset
from tests.chatml_files import load, make_cache
from voice_cloning.corpora.pack import PackSummary, pack_file
from voice_cloning.corpora.packing_references import SameSpeech

FIELDS = ("input_ids", "label_ids", "audio_ids_concat", "audio_ids_start")


def pack(
    demo: Path,
    path: Path,
    output_dir: Path,
    workers: int = 1,
    same_speech: SameSpeech | None = None,
    **settings: Any,
) -> PackSummary:
    """Pack a file as it is written, with the tokenizer and codec of the demo; its codes are beside the folder."""
    settings = {"prompt_style": "as_written", "code_cache_dir": str(output_dir.parent / "cache"), **settings}
    models = {"model": (str(demo / "model"), None), "codec": (str(demo / "audio_tokenizer"), None)}
    return pack_file(
        path,
        output_dir,
        ArabicVoiceCloningDatasetConfig(**settings),
        **models,
        workers=workers,
        same_speech=same_speech,
    )


def prepared(folder: Path, max_positions: int = 2048, drop_invalid: bool = False, **wanted: Any) -> PreparedDataset:
    """The dataset of a folder, with the delay pattern of the demo."""
    needed = {name: (value, f"--{name}") for name, value in wanted.items()}
    limits = {"max_positions": max_positions, "drop_invalid": drop_invalid}
    return PreparedDataset(folder, needed, use_delay_pattern=True, **limits)


def from_file(
    demo: Path, path: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, **settings: Any
) -> SampleDataset:
    """The dataset of the file, from the cache that packing into ``folder`` has filled."""
    cache = make_cache(folder.parent / "cache", codec_identity(demo / "audio_tokenizer"))
    dataset = load(path, tokenizer, cache, **settings)
    dataset.encode_missing(lambda: 1 / 0)
    return dataset


def same_sample(one: ChatMLDatasetSample, other: ChatMLDatasetSample) -> bool:
    """Bit for bit, and of the same types."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def assert_same_data(one: SampleDataset, other: SampleDataset) -> None:
    """All that training asks of a dataset."""
    assert one.frames_per_second == other.frames_per_second
    assert len(one) == len(other) and one.fingerprint() == other.fingerprint()
    assert one.lengths.dtype == other.lengths.dtype and one.lengths.tolist() == other.lengths.tolist()
    for name in ("text_positions", "text_labels"):
        assert getattr(one.sizes, name).tolist() == getattr(other.sizes, name).tolist()
    for index in range(len(one)):
        assert same_sample(one[index], other[index])
        for ask in ("sample_id", "number", "speaker", "text_to_speak"):
            assert getattr(one, ask)(index) == getattr(other, ask)(index)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
