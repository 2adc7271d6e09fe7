"""The line of an evaluation says what was found, and nothing of what was not."""

import pytest

from voice_cloning.training.evaluation_words import evaluation_line, percent

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
