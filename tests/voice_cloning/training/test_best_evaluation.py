"""Which evaluation is the best one, how long a run waits for a better one, and what the state keeps of it."""

import json
from pathlib import Path

import pytest

from boson_multimodal.errors import InputError
from voice_cloning.training.checkpoints import STATE_FILE, DamageError, read_state
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.evaluation_words import without_better
from voice_cloning.training.losses import LossTotals
from voice_cloning.training.state import EvaluationResult, TrainingState, is_over


def state_at(step: int) -> TrainingState:
    return TrainingState(total_steps=20, totals=LossTotals.zeros(8), step=step)


def test_by_default_the_lowest_finite_loss_is_the_best() -> None:
    state = state_at(1)
    losses = [3.0, float("nan"), 2.0, 2.0, float("inf"), 2.5, 1.0]
    found = [state.note_evaluation(EvaluationResult(step, loss)) for step, loss in enumerate(losses, start=1)]
    assert found == [True, False, True, False, False, False, True]
    assert state.best == EvaluationResult(7, 1.0) and state.evaluations_without_better == 0


def test_patience_ends_the_run_after_so_many_evaluations_without_a_better_one() -> None:
    state = state_at(1)
    for step, loss in enumerate([3.0, 2.0, 2.5, 2.4], start=1):
        state.step = step
        state.note_evaluation(EvaluationResult(step, loss), patience=3)
        assert (state.ended_early, state.is_finished, state.total_steps) == (False, False, 20)
    state.step = 5
    assert not state.note_evaluation(EvaluationResult(5, 2.3), patience=3)
    assert (state.ended_early, state.is_finished, state.total_steps) == (True, True, 5)


def test_a_run_that_is_at_its_end_is_not_ended_early() -> None:
    state = state_at(20)
    state.best = EvaluationResult(1, 0.0)
    state.note_evaluation(EvaluationResult(20, 1.0), patience=1)
    assert state.is_finished and not state.ended_early


def test_a_run_without_a_finite_loss_is_ended_too() -> None:
    state = state_at(1)
    for step in (1, 2):
        state.step = step
        state.note_evaluation(EvaluationResult(step, float("nan")), patience=2)
    assert state.ended_early and state.best is None
    assert without_better(None) == "no evaluation had a finite loss"


@pytest.mark.parametrize(
    ("found", "patience", "over"),
    [
        ({"finished": False}, None, False),
        ({"finished": True}, None, True),  # an earlier release
        ({"finished": True, "evaluations_without_better": 5}, 9, True),
        ({"finished": True, "evaluations_without_better": 2, "ended_early": True}, 2, True),
        ({"finished": True, "evaluations_without_better": 2, "ended_early": True}, 1, True),
        ({"finished": True, "evaluations_without_better": 2, "ended_early": True}, 3, False),
        ({"finished": True, "evaluations_without_better": 2, "ended_early": True}, None, False),
    ],
)
def test_only_more_patience_goes_on_with_a_run_that_patience_ended(
    found: dict[str, object], patience: int | None, over: bool
) -> None:
    assert is_over(found, patience) == over


def test_a_run_that_patience_ended_is_finished(tmp_path: Path) -> None:
    state = state_at(4)
    state.total_steps, state.ended_early, state.evaluations_without_better = 4, True, 2
    state.save(tmp_path)
    content = json.loads((tmp_path / STATE_FILE).read_text())
    assert read_state(tmp_path)["ended_early"] is True
    for wrong in ({"ended_early": False}, {"total_steps": 9, "finished": False}):
        (tmp_path / STATE_FILE).write_text(json.dumps({**content, **wrong}))
        with pytest.raises(DamageError, match="ended_early is .*; it must be true, and the run finished"):
            read_state(tmp_path)


def test_another_rule_can_choose_the_best_and_the_loss_must_still_be_finite() -> None:
    def more_end(candidate: EvaluationResult, best: EvaluationResult) -> bool:
        return sum(candidate.ended) > sum(best.ended)

    state = state_at(1)
    assert state.note_evaluation(EvaluationResult(1, 1.0, ended=(True, False)), more_end)
    assert not state.note_evaluation(EvaluationResult(2, 0.5, ended=(False, False)), more_end)
    assert not state.note_evaluation(EvaluationResult(3, float("nan"), ended=(True, True)), more_end)
    assert state.note_evaluation(EvaluationResult(4, 2.0, ended=(True, True)), more_end)


def test_the_state_comes_back_from_its_file(tmp_path: Path) -> None:
    state = state_at(4)
    best = EvaluationResult(3, 1.5, ended=(True, False), word_errors=(0, 2), words=(3, 4), recogniser="whisper")
    state.best, state.evaluations_without_better = best, 2
    state.save(tmp_path)
    found = TrainingState.load(tmp_path, 20)
    assert (found.best, found.evaluations_without_better) == (best, 2)


def test_the_state_of_an_earlier_release_has_waited_for_nothing(tmp_path: Path) -> None:
    state_at(4).save(tmp_path)
    content = json.loads((tmp_path / STATE_FILE).read_text())
    del content["evaluations_without_better"]
    (tmp_path / STATE_FILE).write_text(json.dumps({**content, "best": {"step": 2, "eval_loss": 1.0}}))
    found = TrainingState.load(tmp_path, 20)
    assert (found.best, found.evaluations_without_better) == (EvaluationResult(2, 1.0), 0)


@pytest.mark.parametrize(
    "clips",
    [
        {"ended": [1]},
        {"ended": True},
        {"ended": [True], "words": [1, 2]},
        {"words": [-1]},
        {"word_errors": [0.5]},
        {"heard": [True]},
        {"recogniser": 3},
    ],
)
def test_wrong_clips_of_the_best_evaluation_are_named(tmp_path: Path, clips: dict[str, object]) -> None:
    state_at(4).save(tmp_path)
    content = json.loads((tmp_path / STATE_FILE).read_text())
    content["best"] = {"step": 2, "eval_loss": 1.0, **clips}
    (tmp_path / STATE_FILE).write_text(json.dumps(content))
    with pytest.raises(DamageError, match="best is "):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"keep_best_by": "stop_rate"}, "keep_best_by needs evaluations; give eval_data_path"),
        ({"patience": 2}, "patience needs evaluations; give eval_data_path"),
        ({"asr": "whisper"}, "asr needs evaluations; give eval_data_path"),
        ({"patience": 0, "eval_data_path": "val.json"}, "patience is 0; it must be at least 1"),
        ({"keep_best_by": "wer", "eval_data_path": "val.json"}, "keep_best_by is wer, which needs a speech recogniser"),
        ({"keep_best_by": "cer", "eval_data_path": "val.json"}, "keep_best_by is 'cer'; it must be one of"),
        (
            {"keep_best_by": "stop_rate", "eval_data_path": "val.json", "num_scored_samples": 31},
            "num_scored_samples is 31; fewer than 32 samples cannot decide",
        ),
        (
            {"keep_best_by": "stop_rate", "eval_data_path": "val.json", "eval_steps": 2, "sample_every": 4},
            "sample_every 4 does not divide eval_steps 2: evaluations without speech cannot be compared",
        ),
        (
            {"asr": "whisper", "eval_data_path": "val.json", "num_scored_samples": 0},
            "asr hears the scored samples, and num_scored_samples is 0",
        ),
    ],
)
def test_wrong_settings_are_named(flags: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistributedTrainingConfig(data_path="train.json", output_dir="run", **flags)
