"""The tiny checkpoint, its clips and its codec, and an adapter that knows four of the clips; made once a session."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, load_higgs_audio_tokenizer
from lora_config import TARGET_GROUPS
from tests.training_runs import trainer
from tools.demo.build import build_demo

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


@pytest.fixture(scope="session")
def memorised(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> ArabicVoiceCloningDistributedTrainer:
    """A run that has memorised ``demo/four.json``, one clip of each voice; its model is in inference mode."""
    records = json.loads((demo / "train_chatml_samples.json").read_text(encoding="utf-8"))
    four = demo / "four.json"
    four.write_text(json.dumps(records[::4]), encoding="utf-8")
    torch.manual_seed(0)
    subject = trainer(
        demo,
        tmp_path_factory.mktemp("memorised"),
        data_path=four,
        eval_data_path=None,
        max_steps=80,
        max_tokens_per_batch=2048,
        learning_rate=5e-3,
        lora_rank=64,
        lora_alpha=64,
        lora_dropout=0.0,
        lora_targets=list(TARGET_GROUPS),
        logging_steps=80,
        save_steps=80,
    )
    subject.train()
    subject.components.model.eval()
    return subject


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test draws the same random numbers whichever ran before it."""
    torch.manual_seed(0)
