"""The demo's base and the adapter that has memorised four clips, loaded once as the studio loads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from tests.voice_cloning.speech.cloners import checkpoint_of, entry_of
from tools.studio.job import Wishes
from tools.studio.systems import BASE, Systems
from voice_cloning.speech.voices import open_voices

ADAPTER = "run/checkpoint"


@pytest.fixture(scope="module")
def systems(demo: Path, memorised: ArabicVoiceCloningDistributedTrainer) -> Systems:
    """The base and the adapter, with weights."""
    parts = {"model_path": str(demo / "model"), "audio_tokenizer_path": str(demo / "audio_tokenizer"), "device": "cpu"}
    found = Systems(open_voices({ADAPTER: checkpoint_of(memorised)}, **parts))
    found.load()
    return found


@pytest.fixture(scope="session")
def entry(demo: Path, memorised: ArabicVoiceCloningDistributedTrainer) -> dict[str, Any]:
    """The first memorised clip: its text, its reference as an absolute path, and the text of the reference."""
    found = entry_of(json.loads((demo / "four.json").read_text(encoding="utf-8"))[0])
    return {**found, "reference": str(demo / found["reference"])}


@pytest.fixture
def wishes(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``Wishes`` with which the adapter speaks the memorised clip. The base, which never ends, is cut."""
    texts = {name: entry[name] for name in ("reference", "reference_text", "text")}
    short = {"retries": 0, "slowest_letters_per_second": 20.0}
    return vars(Wishes(**texts, systems=[BASE, ADAPTER], greedy=True, **short)).copy()
