"""The settings of ``make demo`` memorise every clip, as the end of the demo says."""

import re
from pathlib import Path

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from tests.training_runs import PROJECT
from tests.voice_cloning.speech.cloners import GREEDY, make_cloner, targets
from voice_cloning.speech.requests import read_manifest


def demo_settings() -> list[str]:
    """The flags that the Makefile gives to the trainer, without paths."""
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.search(r"^DEMO_SETTINGS := (.*)$", makefile, re.MULTILINE)[1].split()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [42, 1, 2])
def test_every_clip_is_memorised_with_several_seeds(demo: Path, tmp_path: Path, seed: int) -> None:
    paths = {
        "data_path": demo / "train_chatml_samples.json",
        "model_path": demo / "model",
        "audio_tokenizer_path": demo / "audio_tokenizer",
        "code_cache_dir": demo / "code_cache",
        "output_dir": tmp_path / "out",
        "seed": seed,
        "report_to": "none",
    }
    words = [word for name, value in paths.items() for word in (f"--{name}", str(value))]
    subject = program.ArabicVoiceCloningDistributedTrainer(*program.parse_arguments([*words, *demo_settings()], ""))
    summary = subject.train()
    assert summary.finished
    cloner = make_cloner(demo, adapter=summary.checkpoint, settings=GREEDY)
    requests = read_manifest(demo / "train_chatml_samples.json", cloner.prompt_style)[0]
    spoken = {request.name: speech.pieces[0].codes for request, speech in cloner.speak_all(requests)}
    wrong = [
        request.name
        for request, codes in zip(requests, targets(subject), strict=True)
        if not torch.equal(spoken[request.name], codes)
    ]
    assert not wrong
