"""The tiny checkpoint, its clips and its codec, built once a session."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, load_higgs_audio_tokenizer
from tools.make_demo import build_demo

# The model is tiny: a second thread costs more than it brings, and much more on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with model/, audio_tokenizer/, {train,val}_chatml_samples.json and clips/."""
    folder = tmp_path_factory.mktemp("demo")
    build_demo(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(demo: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(demo / "model")


@pytest.fixture(scope="session")
def codec(demo: Path) -> HiggsAudioTokenizer:
    return load_higgs_audio_tokenizer(demo / "audio_tokenizer")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test draws the same random numbers whichever ran before it."""
    torch.manual_seed(0)
