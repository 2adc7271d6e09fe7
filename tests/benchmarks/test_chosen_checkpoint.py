"""The benchmark of ``--select``: its recogniser of codes, its settings, and what it prints."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.chosen_checkpoint import WordRecogniser, comparison, main, parse_arguments, settings_of
from benchmarks.spoken_words import SAMPLING
from tests.benchmarks.test_what_one_hears import needs_words
from voice_cloning.evaluation.recognisers import Heard
from voice_cloning.training.checkpoints import STATE_FILE


def test_the_recogniser_says_the_word_and_nothing_of_an_empty_clip() -> None:
    module = SimpleNamespace(
        Recogniser=lambda: SimpleNamespace(word=lambda codes_KT: "yes" if codes_KT[0, 0] else "no"),
        WORDS={"yes": "نعم", "no": "لا"},
    )
    clips = [Heard(codes_KT=torch.full((8, frames), code)) for frames, code in ((3, 1), (3, 0), (0, 0))]
    assert WordRecogniser(module).transcribe(clips) == ["نعم", "لا", ""]


def test_words_are_asked_for_as_in_the_comparison_of_recipes(tmp_path: Path) -> None:
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step:06d}"
        folder.mkdir()
        (folder / STATE_FILE).touch()
    args = parse_arguments(["--run", str(tmp_path), "--output_dir", "out", "--seeds", "3", "4"])
    settings = settings_of(args)
    sampling = settings.systems.speech.sampling
    assert {name: getattr(sampling, name) for name in SAMPLING} == SAMPLING
    assert settings.systems.adapters == tuple(str(tmp_path / f"checkpoint-00000{step}") for step in (1, 2))
    assert (settings.select, settings.seeds, settings.systems.base) == (tmp_path, (3, 4), True)


def figures_of(wrong: float) -> dict[str, Any]:
    interval = {"value": wrong, "low": wrong - 0.1, "high": wrong + 0.1}
    return {"wer_scoring": interval, "stop_rate": {"value": 1.0, "low": 0.98, "high": 1.0}}


def test_the_choice_of_the_loss_stands_beside_that_of_speech() -> None:
    systems = [{"name": name, "figures": figures_of(wrong)} for name, wrong in (("a", 0.7), ("b", 0.5))]
    report = {
        "systems": systems,
        "retention": {"systems": systems},
        "selection": {"by_eval_loss": "a", "chosen": "b"},
    }
    lines = comparison(report)
    assert lines[0] == "by loss: a" and lines[3] == "by speech: b"
    assert lines[1] == "  new words: 70.0% (60.0% to 80.0%) of words wrong, 100.0% (98.0% to 100.0%) of clips end"
    assert lines[5] == "  old words: 50.0% (40.0% to 60.0%) of words wrong, 100.0% (98.0% to 100.0%) of clips end"
    assert comparison({**report, "selection": {"by_eval_loss": "a", "chosen": None}})[3:] == ["by speech: None"]


@needs_words
def test_a_run_without_checkpoints_has_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 1
    assert "0 checkpoints in it" in capsys.readouterr().err
