"""The settings of ``make demo`` memorise every clip, and its end says what the report of the evaluation holds."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from tests.evaluation_example import write_example, write_report
from tests.training_runs import PROJECT
from tests.voice_cloning.speech.cloners import GREEDY, make_cloner, targets
from tools import evaluate
from tools.demo.ending import sum_up_evaluation
from voice_cloning.speech.requests import read_manifest


def makefile() -> str:
    """The Makefile with its continued lines joined."""
    return (PROJECT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")


def demo_settings() -> list[str]:
    """The flags that the Makefile gives to the trainer, without paths."""
    return re.search(r"^DEMO_SETTINGS := (.*)$", makefile(), re.MULTILINE)[1].split()


def test_the_evaluation_of_the_demo_has_flags_that_exist() -> None:
    """It compares the base and one adapter on the training records, always with the most probable code."""
    words = shlex.split(re.search(r"-m tools\.evaluate (.*)$", makefile(), re.MULTILINE)[1])
    flags = evaluate.parse_arguments(words)
    assert flags.greedy and not flags.no_base and len(flags.adapter) == 1 and flags.device == "cpu"
    assert flags.test_set == "$(DEMO)/train_chatml_samples.json" and flags.asr is None


def test_the_end_of_the_demo_says_what_the_report_holds(tmp_path: Path) -> None:
    report = write_example(tmp_path, sentences=3, systems=["base", "checkpoint-000200"])
    ratios = {"base": (0.5, 4.0, 5.0), "checkpoint-000200": (1.0, 1.0, 1.0)}
    for index, item in enumerate(report["items"]):
        for name, of_name in ratios.items():
            ended = name != "base" or index == 0
            item["clips"][name] = [{"seed": 0, "audio": None, "ended": ended, "length_ratio": of_name[index]}]
    write_report(tmp_path, report)
    assert sum_up_evaluation(tmp_path) == [
        "the 3 training clips spoken from their prompts, always the most probable code:",
        "  base: 1 of 3 end by themselves; 4.00 times as long as the true recording (from 0.50 to 5.00)",
        "  checkpoint-000200: 3 of 3 end by themselves; 1.00 times as long as the true recording (from 1.00 to 1.00)",
        f"open {tmp_path / 'report.html'} in a browser: listen to both beside the true recordings",
    ]
    for item in report["items"]:
        item["clips"] = {"base": [{"ended": None, "length_ratio": None}]}
    write_report(tmp_path, report)
    assert sum_up_evaluation(tmp_path)[1:3] == [
        "  base: 0 of 3 end by themselves",
        "  checkpoint-000200: 0 of 0 end by themselves",
    ]


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
