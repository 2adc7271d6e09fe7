"""Two clips, and the dataset of records beside them."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.chatml_files import load, make_cache, write_clip, write_records
from tests.dataset.encoded_samples import Load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ref.wav and tgt.wav, and room for a data file."""
    write_clip(tmp_path / "ref.wav", seconds=0.4, seed=1)
    write_clip(tmp_path / "tgt.wav", seconds=0.61, seed=2)
    return tmp_path


@pytest.fixture
def load_here(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Load:
    """Writes records beside the clips and constructs their dataset, with a cache beside them."""

    def load_records(records: list[dict[str, Any]], file: str = "data.json", **settings: Any) -> Any:
        path = write_records(folder / file, records)
        return load(path, tokenizer, make_cache(folder / "cache"), **settings)

    return load_records
