"""ChatML files for tests: clips, records, and the dataset that they make."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset, ArabicVoiceCloningDatasetConfig
from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.mel_features import AS_CODES, ReferenceForm
from boson_multimodal.constants import FRAMES_PER_SECOND


def noise(seconds: float, rate: int = 24_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(samples, channels) of quiet noise."""
    return np.random.default_rng(seed).normal(0.0, 0.1, (round(seconds * rate), channels)).astype(np.float32)


def write_clip(path: Path, seconds: float = 0.4, rate: int = 24_000, channels: int = 1, seed: int = 0) -> Path:
    """A clip of noise in the format that the name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds, rate, channels, seed), rate)
    return path


def audio(url: str | Path | None, **fields: Any) -> dict[str, Any]:
    """An audio part."""
    return {"type": "audio", "audio_url": None if url is None else str(url), **fields}


def text(words: str) -> dict[str, Any]:
    """A text part."""
    return {"type": "text", "text": words}


def record(sample_id: str, reference: dict[str, Any], target: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A sample in the form that users have: reference in the user turn, target text and clip in the assistant's."""
    return {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": [text("صباح الخير"), reference, text("Please say: كيف حالك")]},
            {"role": "assistant", "content": [text("كيف حالك"), target]},
        ],
        "start_index": 0,
        "misc": {"sample_id": sample_id},
        **fields,
    }


def write_records(path: Path, records: Any) -> Path:
    """A ``.json`` list with its Arabic escaped, or a ``.jsonl`` with one record a line and its Arabic as it is."""
    if path.suffix == ".jsonl":
        content = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    else:
        content = json.dumps(records, indent=1)
    path.write_text(content, encoding="utf-8")
    return path


def make_cache(folder: Path, codec: str = "codec-a") -> CodeCache:
    """A cache for codes of the demo's form."""
    return CodeCache(folder, codec, num_codebooks=8, codebook_size=1024)


def load(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    cache: CodeCache,
    max_positions: int = 2048,
    use_delay_pattern: bool = True,
    reference: ReferenceForm = AS_CODES,
    prompt_style: str = "as_written",
    **settings: Any,
) -> ArabicVoiceCloningDataset:
    """The dataset of a file, checked but not yet encoded."""
    return ArabicVoiceCloningDataset(
        str(path),
        tokenizer,
        cache,
        ArabicVoiceCloningDatasetConfig(prompt_style=prompt_style, **settings),
        use_delay_pattern=use_delay_pattern,
        frames_per_second=FRAMES_PER_SECOND,
        max_positions=max_positions,
        reference=reference,
    )
