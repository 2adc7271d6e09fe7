"""The line of an evaluation says what was found, and nothing of what was not."""

import re

import pytest
import torch

from tests.training_runs import PROJECT
from voice_cloning.training.evaluation_words import evaluation_line, percent
from voice_cloning.training.losses import accuracies
from voice_cloning.training.spoken_figures import SpokenClip, spoken_figures

LOSSES = {"eval_loss": 3.40123, "eval_text_loss": 1.0}
ACCURACIES = {"eval_accuracy_codebook_0": 0.312, "eval_accuracy_end": 0.99, "eval_accuracy_end_codebook_0": 0.97}
SPOKEN = {
    "spoken_clips": 64,
    "spoken_stop_rate": 62 / 64,
    "spoken_length_ratio": 1.06,
    "spoken_length_ratio_p5": 0.8,
    "spoken_length_ratio_p95": 1.4,
    "spoken_repeated_share": 0.01,
    "spoken_characters_per_second": 14.08,
    "true_characters_per_second": 13.2,
}
OF_SPEECH = "64 clips spoken: 97 % ended, length ratio 1.06 (0.80 to 1.40), 14.1 characters/s (data 13.2)"


@pytest.mark.parametrize(
    ("results", "is_best", "line"),
    [
        (LOSSES, False, "eval_loss 3.4012"),
        (LOSSES, True, "eval_loss 3.4012 (best so far)"),
        (LOSSES | ACCURACIES, True, "eval_loss 3.4012 (best so far), first codebook 31 % right, ends 97 % right"),
        (
            LOSSES | {"eval_accuracy_codebook_0": 0.312},
            False,
            "eval_loss 3.4012, first codebook 31 % right, no label is an end",
        ),
        (SPOKEN, False, OF_SPEECH),
        (
            SPOKEN | ACCURACIES | LOSSES,
            False,
            f"eval_loss 3.4012, first codebook 31 % right, ends 97 % right; {OF_SPEECH}",
        ),
        ({"spoken_clips": 1, "spoken_stop_rate": 0.0}, False, "1 clip spoken: 0 % ended"),
        (LOSSES | {"spoken_clips": 0}, False, "eval_loss 3.4012"),
        (
            {name: value for name, value in SPOKEN.items() if not name.startswith("true_") and "ratio" not in name},
            False,
            "64 clips spoken: 97 % ended, 14.1 characters/s",
        ),
        ({"eval_loss": float("nan")}, False, "eval_loss nan"),
    ],
)
def test_the_line_says_what_was_found(results: dict[str, float], is_best: bool, line: str) -> None:
    assert evaluation_line(results, is_best) == line


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (1, "100 %"), (1.0, "100 %"), (0.5, "50 %"), (0.996, "99.6 %"), (0.004, "0.4 %"), (63 / 64, "98 %")],
)
def test_a_single_clip_shows_in_a_share(share: float, words: str) -> None:
    assert percent(share) == words


def test_the_page_of_figures_names_each_of_them_and_shows_the_line() -> None:
    page = (PROJECT / "docs" / "figures.md").read_text(encoding="utf-8")
    line = re.search(r"^step 200: (.*)$", page, re.MULTILINE)[1]
    assert line == evaluation_line(LOSSES | ACCURACIES | SPOKEN, True)
    clip = SpokenClip(
        sample="a",
        text="a",
        characters=1,
        ended=True,
        frames=1,
        true_frames=1,
        repeated_frames=0,
        silent_frames=0,
        seed=0,
    )
    names = spoken_figures([clip], 25.0).keys() | accuracies(torch.ones(6), torch.full((2,), 2.0)).keys()
    explained = {
        name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall("`(.*?)`", row)
    }
    explained |= {"spoken_length_ratio_p5", "spoken_length_ratio_p95"} if "_p5" in explained else set()
    missing = {name.replace("codebook_1", "codebook_0") for name in names} - {
        e.removeprefix("eval_") for e in explained
    }
    assert not missing
