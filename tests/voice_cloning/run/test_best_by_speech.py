"""``--keep_best_by`` and ``--patience`` in whole runs whose speech is stubbed: its results are those of a table."""

import json
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from tests.spoken_runs import TINY, spoken_trainer
from tests.training_runs import assert_same_adapter, metrics
from voice_cloning.adapters.model_card import read_facts
from voice_cloning.evaluation.training_speech import SpeechResult, TrainingSpeech
from voice_cloning.evaluation.word_errors import TextErrors
from voice_cloning.run.components import FinishedRun
from voice_cloning.run.report import closing_lines
from voice_cloning.training.checkpoints import read_state
from voice_cloning.training.evaluation import Evaluator

CLIPS = 32
EVERY_STEP = {"eval_steps": 1, "save_steps": 100, "save_total_limit": 1, "logging_steps": 4}


def heard(ended: int, wrong: int = 0, recogniser: str = "whisper", clips: int = CLIPS) -> SpeechResult:
    """Clips of two words, of which so many ended, and so many have both words wrong."""
    errors = tuple(
        TextErrors(word_errors=2 * (n < wrong), words=2, character_errors=0, characters=5) for n in range(clips)
    )
    rates = {"spoken_clips": clips, "spoken_stop_rate": ended / clips, "spoken_wer": wrong / clips}
    return SpeechResult(rates, tuple(n < ended for n in range(clips)), errors, recogniser)


@pytest.fixture
def stubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ArabicVoiceCloningDistributedTrainer]:
    """Makes a trainer whose evaluations after steps 1, 2, ... have the given losses and speech."""
    records = json.loads((TINY / "train.json").read_text(encoding="utf-8"))
    samples = [{**r, "misc": {**r.get("misc", {}), "sample_id": f"s{n}"}} for n in range(6) for r in records][:CLIPS]
    data = tmp_path / "eval.json"
    data.write_text(json.dumps(samples), encoding="utf-8")
    plan: dict[str, Any] = {}

    def speak(self: TrainingSpeech, model: object, step: int, stop: Callable[[], bool]) -> SpeechResult | None:
        if plan.get("signal_at") == step and not plan.setdefault("signalled", False):
            plan["signalled"] = True
            signal.raise_signal(signal.SIGTERM)
        return None if stop() else plan["speech"][step - 1]

    evaluate = Evaluator.evaluate

    def with_loss(self: Evaluator, *arguments: Any) -> dict[str, float] | None:
        losses, step = evaluate(self, *arguments), plan["subject"].components.state.step
        return None if losses is None else {**losses, "eval_loss": plan["losses"][step - 1]}

    monkeypatch.setattr(program, "find_recogniser_of", lambda *_: None)  # who hears is in the results of the table
    monkeypatch.setattr(TrainingSpeech, "speak", speak)
    monkeypatch.setattr(Evaluator, "evaluate", with_loss)

    def make(name: str, losses: list[float], speech: list[SpeechResult], **settings: Any) -> Any:
        given = {**EVERY_STEP, "eval_data_path": data, "num_scored_samples": CLIPS, "max_steps": len(losses)}
        plan.update(losses=losses, speech=speech, signal_at=settings.pop("signal_at", None))
        plan["subject"] = spoken_trainer(tmp_path / name, **{**given, **settings})
        return plan["subject"]

    return make


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_the_checkpoint_that_stops_better_is_kept_although_its_loss_is_higher(
    stubbed: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    speech = [heard(10), heard(30), heard(29), heard(12)]
    subject = stubbed("run", [3.0, 3.5, 3.6, 2.0], speech, keep_best_by="stop_rate")
    summary = subject.train()
    assert checkpoints(tmp_path / "run") == ["checkpoint-000002", "checkpoint-000004"]
    assert (summary.best_step, summary.best_checkpoint) == (2, tmp_path / "run" / "checkpoint-000002")
    title = "best by stop rate, then evaluation loss"
    assert f"{title}: {tmp_path / 'run' / 'checkpoint-000002'}" in closing_lines(summary)
    told = [line for line in caplog.messages if " against " in line]
    assert len(told) == 3
    assert told[0].startswith("step 2 against step 1, the best so far: stop rate +62.5 points (")
    assert told[0].endswith("). The stop rate decides (its interval has no 0 in it): step 2 is the best now")
    assert told[1].endswith(
        ", loss 3.5000 to 3.6000. The loss decides (nothing before it is certain): step 2 stays the best"
    )
    assert told[2].startswith("step 4 against step 2, the best so far: stop rate -56.2 points (")
    assert told[2].endswith("The stop rate decides (its interval has no 0 in it): step 2 stays the best")
    assert sum("best so far by stop rate, then evaluation loss" in line for line in caplog.messages) == 2
    assert not any("(best so far)" in line for line in caplog.messages)
    card = (tmp_path / "run" / "checkpoint-000004" / "README.md").read_text(encoding="utf-8")
    assert "- best so far by stop rate, then evaluation loss: step 2, eval_loss 3.5000" in card
    assert "best eval_loss" not in card


def test_the_best_is_remembered_over_a_stop_during_an_evaluation(stubbed: Any, tmp_path: Path) -> None:
    losses = [3.0, 3.5, 3.6, 2.0]
    speech = [heard(30, wrong=30), heard(31, wrong=8), heard(31, wrong=9), heard(30, wrong=24)]
    settings = {"keep_best_by": "wer", "asr": "asr", "patience": 3}
    whole = stubbed("whole", losses, speech, **settings).train()
    stopped = stubbed("stopped", losses, speech, **settings, signal_at=3).train()
    assert (stopped.stopped_by, stopped.step, stopped.best_step) == (signal.SIGTERM, 3, 2)
    due = read_state(stopped.checkpoint)
    assert (due["evaluation_due"], due["evaluations_without_better"]) == (True, 0)
    assert (due["best"]["recogniser"], sum(due["best"]["word_errors"]), sum(due["best"]["words"])) == (
        "whisper",
        16,
        64,
    )
    resumed = stubbed("stopped", losses, speech, **settings).train()
    assert (resumed.finished, resumed.best_step, whole.best_step) == (True, 2, 2)
    assert checkpoints(tmp_path / "stopped") == checkpoints(tmp_path / "whole")
    for name in checkpoints(tmp_path / "whole"):
        one, other = (tmp_path / folder / name for folder in ("whole", "stopped"))
        assert_same_adapter(one, other)
        assert {**read_state(one), "sha256": None} == {**read_state(other), "sha256": None}
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_patience_ends_the_run_and_says_why_and_more_of_it_goes_on(
    stubbed: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plan = [3.0, 2.0, 2.5, 2.4, 1.0, 0.9], [heard(30)] * 6
    summary = stubbed("run", *plan, patience=2, logging_steps=3).train()
    assert (summary.finished, summary.ended_early, summary.step, summary.best_step) == (True, True, 4, 2)
    assert checkpoints(tmp_path / "run") == ["checkpoint-000002", "checkpoint-000004"]
    assert "step 4: no better evaluation since step 2; the run ends here (--patience 2)" in caplog.messages
    reason = "ended by --patience: no better evaluation since step 2; more of it goes on from there"
    assert closing_lines(summary)[:2] == ["finished: 4 steps", reason]
    card = (summary.checkpoint / "README.md").read_text(encoding="utf-8")
    assert "- optimizer steps: 4; no better evaluation since step 2 (`--patience`)" in card
    assert read_facts(summary.checkpoint)["results"]["ended_early"] is True
    losses = {line["step"]: line for line in metrics(tmp_path / "run") if "loss" in line}

    again = stubbed("run", *plan, patience=2, logging_steps=3)
    assert isinstance(again.components, FinishedRun)
    assert closing_lines(again.train())[:2] == ["finished: 4 steps", reason]
    assert f"this run is finished: step 4, adapter in {summary.checkpoint}" in caplog.messages

    on = stubbed("run", *plan, patience=3, logging_steps=3).train()
    whole = stubbed("whole", *plan, patience=3, logging_steps=1).train()
    assert (on.step, on.ended_early, on.best_step) == (whole.step, whole.ended_early, whole.best_step) == (6, False, 6)
    assert_same_adapter(on.checkpoint, whole.checkpoint)
    assert "ended_early" not in read_state(on.checkpoint)
    # The losses of the steps since the last line were written where the run ended, with the planned learning rate.
    assert list(losses) == [3, 4]
    assert losses[4] == next(r for r in metrics(tmp_path / "whole") if r["step"] == 4 and "loss" in r)
