"""Clips for the tests of broken input, and a dataset's refusal of records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from transformers import PreTrainedTokenizerBase

from boson_multimodal.errors import InputError
from tests.chatml_files import load, make_cache, noise, write_clip, write_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound clips ref.wav and tgt.wav, and clips that are broken in one way each."""
    folder = tmp_path_factory.mktemp("broken")
    write_clip(folder / "ref.wav", seconds=0.4, seed=1)
    write_clip(folder / "tgt.wav", seconds=0.6, seed=2)
    (folder / "garbage.wav").write_bytes(bytes(range(256)) * 8)
    (folder / "headerless.raw").write_bytes(bytes(2000))
    soundfile.write(folder / "no_samples.wav", np.zeros(0), 24_000)
    soundfile.write(folder / "blink.wav", noise(0.004), 24_000)
    soundfile.write(folder / "odd_rate.wav", noise(0.4), 44_101)
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        samples = noise(0.4)
        samples[100] = value
        soundfile.write(folder / f"{name}.wav", samples, 24_000, subtype="FLOAT")
    return folder


@pytest.fixture
def refusal(
    folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[..., str]:
    """Writes records beside the clips, constructs the dataset, and returns the message it is refused with."""

    def refuse(records: Any, suffix: str = ".json", **settings: Any) -> str:
        path = write_records(folder / f"data{suffix}", records)
        with pytest.raises(InputError) as caught:
            load(path, tokenizer, make_cache(tmp_path), **settings)
        message = str(caught.value)
        assert str(path) in message, "names the file"
        return message

    return refuse
