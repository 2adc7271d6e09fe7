"""The rule that chooses a checkpoint: certain differences first, in a stated order; retention as a bound."""

from dataclasses import replace
from typing import Any

import pytest

from voice_cloning.evaluation.selection import (
    Candidate,
    better,
    choose,
    forgotten,
    is_better_evaluation,
)
from voice_cloning.training.state import EvaluationResult


def difference(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 100, "method": "given"}


CERTAINLY_UP, CERTAINLY_DOWN, UNCERTAIN = (
    difference(0.1, 0.02, 0.18),
    difference(-0.1, -0.18, -0.02),
    difference(0.05, -0.01, 0.11),
)
EARLY = Candidate("early", 100, 2.0, {"wer_scoring": 0.5})
LATE = Candidate("late", 200, 3.0, {"wer_scoring": 0.5})


@pytest.mark.parametrize(
    ("differences", "is_better", "rule"),
    [
        ({"stop_rate": CERTAINLY_UP, "wer_scoring": CERTAINLY_UP}, True, "stop_rate"),
        ({"stop_rate": CERTAINLY_DOWN, "wer_scoring": CERTAINLY_DOWN}, False, "stop_rate"),
        ({"stop_rate": UNCERTAIN, "wer_scoring": CERTAINLY_DOWN, "sim_reference": CERTAINLY_DOWN}, True, "wer_scoring"),
        ({"stop_rate": UNCERTAIN, "wer_scoring": CERTAINLY_UP, "sim_reference": CERTAINLY_UP}, False, "wer_scoring"),
        ({"wer_scoring": UNCERTAIN, "sim_reference": CERTAINLY_UP}, True, "sim_reference"),
        ({"sim_reference": CERTAINLY_DOWN}, False, "sim_reference"),
        ({"stop_rate": difference(0.1, 0.0, 0.2)}, False, "eval_loss"),
        ({}, False, "eval_loss"),
    ],
)
def test_the_first_certain_difference_decides_then_the_loss(
    differences: dict[str, Any], is_better: bool, rule: str
) -> None:
    verdict = better(LATE, EARLY, differences)
    assert (verdict.is_better, verdict.rule) == (is_better, rule)
    assert verdict.difference == (None if rule == "eval_loss" else differences[rule])


def test_an_uncertain_word_error_rate_goes_before_the_loss() -> None:
    late = Candidate("late", 200, 3.0, {"wer_scoring": 0.4})
    verdict = better(late, EARLY, {"wer_scoring": UNCERTAIN})
    assert (verdict.is_better, verdict.rule) == (True, "wer_scoring, not certain")


@pytest.mark.parametrize("losses", [(None, 2.0), (2.0, None), (2.0, 2.0)])
def test_nothing_decides_for_a_candidate_of_which_nothing_is_known(losses: tuple[float | None, float | None]) -> None:
    verdict = better(Candidate("b", 2, losses[0]), Candidate("a", 1, losses[1]), {})
    assert (verdict.is_better, verdict.rule) == (False, "none")


def test_checkpoints_are_compared_with_the_best_so_far_in_the_order_of_steps() -> None:
    asked = []

    def differences(best: str, candidate: str) -> dict[str, Any]:
        asked.append((best, candidate))
        return {"wer_scoring": CERTAINLY_DOWN if candidate == "c" else CERTAINLY_UP}

    candidates = [Candidate(name, step) for name, step in (("d", 40), ("a", 10), ("c", 30), ("b", 20))]
    chosen, told = choose(candidates, differences)
    assert chosen == "c" and asked == [("a", "b"), ("a", "c"), ("c", "d")]
    assert [(t["candidate"], t["is_better"]) for t in told] == [("a", True), ("b", False), ("c", True), ("d", False)]


def test_a_checkpoint_that_has_forgotten_too_much_is_out() -> None:
    out = Candidate("a", 10, 1.0, forgotten="wer_scoring changed by +0.400")
    chosen, told = choose([out, EARLY, LATE], lambda best, candidate: {})
    assert chosen == "early" and told[0] == {
        "candidate": "a",
        "is_better": False,
        "rule": "retention: wer_scoring changed by +0.400",
    }
    assert choose([out], lambda best, candidate: {})[0] is None


@pytest.mark.parametrize(
    ("differences", "is_forgotten"),
    [
        ({"wer_scoring": difference(0.4, 0.3, 0.5)}, True),
        ({"wer_scoring": difference(0.4, 0.05, 0.75)}, False),
        ({"wer_scoring": difference(-0.4, -0.5, -0.3)}, False),
        ({"wer_scoring": difference(0.0, -0.1, 0.1), "stop_rate": difference(-0.9, -1.0, -0.8)}, False),
        ({"stop_rate": difference(-0.4, -0.5, -0.3)}, True),
        ({"stop_rate": difference(0.4, 0.3, 0.5)}, False),
        ({}, False),
    ],
)
def test_forgetting_must_be_certain_and_above_the_bound(differences: dict[str, Any], is_forgotten: bool) -> None:
    assert (forgotten(differences, 0.1) is not None) == is_forgotten


def result(step: int, loss: float, ended: int = 0, wrong: int = 0, clips: int = 64) -> EvaluationResult:
    """An evaluation of clips of three words, of which so many ended, and so many have all words wrong."""
    return EvaluationResult(
        step,
        loss,
        ended=tuple(number < ended for number in range(clips)),
        word_errors=tuple(3 * (number < wrong) for number in range(clips)),
        words=(3,) * clips,
    )


@pytest.mark.parametrize(
    ("by", "candidate", "is_better"),
    [
        ("loss", result(2, 2.0, ended=64, wrong=0), False),
        ("loss", result(2, 0.9, ended=0, wrong=64), True),
        ("stop_rate", result(2, 2.0, ended=60, wrong=64), True),
        ("stop_rate", result(2, 0.9, ended=20, wrong=0), False),
        ("stop_rate", result(2, 2.0, ended=41, wrong=0), False),
        ("stop_rate", result(2, 0.9, ended=39, wrong=64), True),
        ("wer", result(2, 2.0, ended=40, wrong=10), True),
        ("wer", result(2, 0.9, ended=40, wrong=60), False),
        ("wer", result(2, 2.0, ended=60, wrong=60), True),
        ("wer", result(2, 0.9, ended=41, wrong=40), True),
        ("wer", result(2, 2.0, ended=60, wrong=0, clips=60), False),
    ],
)
def test_the_rule_of_the_trainer(by: str, candidate: EvaluationResult, is_better: bool) -> None:
    assert is_better_evaluation(by)(candidate, result(1, 1.0, ended=40, wrong=40)) == is_better


@pytest.mark.parametrize(
    ("by", "best", "reason"),
    [
        ("stop_rate", EvaluationResult(1, 1.0), "speech cannot be compared: step 1 has no spoken samples"),
        (
            "stop_rate",
            result(1, 1.0, ended=40, clips=60),
            "speech cannot be compared: the scored samples are others (step 1 has 60, step 2 has 64)",
        ),
        (
            "wer",
            EvaluationResult(1, 1.0, ended=(True,) * 64),
            "stop rate +0.0 points (-4.2 to +4.2), words cannot be compared: step 1 was heard by no recogniser",
        ),
        (
            "wer",
            replace(result(1, 1.0, ended=64, wrong=60), recogniser="other"),
            "words cannot be compared: the recognisers differ (other at step 1, whisper at step 2)",
        ),
        (
            "wer",
            replace(result(1, 1.0, ended=64, wrong=60), words=(4,) * 64, recogniser="whisper"),
            "words cannot be compared: the words of the scored samples are others",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(by: str, best: EvaluationResult, reason: str) -> None:
    told: list[str] = []
    candidate = replace(result(2, 2.0, ended=64), recogniser="whisper")
    assert not is_better_evaluation(by, told.append)(candidate, best)
    assert len(told) == 1 and reason in told[0]
    assert told[0].endswith(
        "loss 1.0000 to 2.0000. The loss decides (nothing before it is certain): step 1 stays the best"
    )


def test_by_loss_nothing_is_told() -> None:
    told: list[str] = []
    assert is_better_evaluation("loss", told.append)(result(2, 0.9), result(1, 1.0, clips=60))
    assert not told


def test_without_speech_the_loss_decides() -> None:
    for by in ("loss", "stop_rate", "wer"):
        assert is_better_evaluation(by)(EvaluationResult(2, 0.9), EvaluationResult(1, 1.0))
        assert not is_better_evaluation(by)(EvaluationResult(2, 1.0), EvaluationResult(1, 1.0))
