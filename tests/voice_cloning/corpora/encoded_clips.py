"""Clips to encode, and what a cache holds of them."""

import os
import time
from pathlib import Path

from boson_multimodal.audio_processing.higgs_audio_tokenizer import codec_identity
from boson_multimodal.audio_processing.packed_store import PackedStore
from tests.chatml_files import audio, record, write_clip, write_records


def make_old(*paths: Path) -> None:
    """Set the files' time to a minute ago: the hash of a file that has just changed is not kept."""
    for path in paths:
        os.utime(path, (time.time() - 60, time.time() - 60))


def clips_and_records(folder: Path, count: int) -> Path:
    """Write records with ``count`` targets of up to twenty different lengths and one common reference."""
    paths = [write_clip(folder / "ref.wav", 0.4, seed=1)]
    paths += [write_clip(folder / f"{i}.wav", 0.3 + 0.02 * (i % 20), seed=2 + i) for i in range(count)]
    make_old(*paths)
    return write_records(
        folder / "data.json", [record(f"s{i}", audio("ref.wav"), audio(f"{i}.wav")) for i in range(count)]
    )


def codec_cache(demo: Path, cache: Path) -> Path:
    return cache / codec_identity(demo / "audio_tokenizer")


def entries(demo: Path, cache: Path) -> dict[bytes, bytes]:
    """Return key -> content of everything that a cache holds."""
    store = PackedStore(codec_cache(demo, cache), lambda content: True)
    return {key: store.read(key) for segment in store._segments for key in segment.keys()}
