"""Trying the fullest micro-batches changes nothing: weights, optimizer, gradients, generators, or the run after it."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.errors import NamedError
from tests.training_runs import assert_same_adapter, metrics, trainer
from voice_cloning.run.memory_trial import MemoryTrial


def trial_of(subject: ArabicVoiceCloningDistributedTrainer) -> MemoryTrial:
    return MemoryTrial(subject.components, subject._training_step, subject.config, subject.loss_config)


def make_all(subject: ArabicVoiceCloningDistributedTrainer) -> list[str]:
    """Make every attempt. Return what they were."""
    trial = trial_of(subject)
    for described, attempt in trial.attempts():
        trial.make(described, attempt)
    return [described for described, _ in trial.attempts()]


def state_of(subject: ArabicVoiceCloningDistributedTrainer) -> dict[str, Any]:
    """A copy of everything that a step depends on."""
    run = subject.components
    return {
        "weights": deepcopy(run.model.state_dict()),
        "optimizer": deepcopy(run.optimizer._adamw.state_dict()),
        "generator": torch.random.get_rng_state(),
        "step": run.state.step,
        "totals": run.state.totals.state(),
    }


def assert_equal(one: Any, other: Any) -> None:
    """Bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_a_trial_changes_nothing_in_a_new_and_in_a_resumed_run(demo: Path, tmp_path: Path) -> None:
    settings = {"max_steps": 2, "save_steps": 1, "eval_steps": 1, "logging_steps": 1, "lora_dropout": 0.2}
    trainer(demo, tmp_path / "plain", **settings).train()
    for part in ("new", "resumed"):
        subject = trainer(demo, tmp_path / "tried", **settings)
        subject.components.model.train()
        before = state_of(subject)
        described = make_all(subject)
        assert_equal(state_of(subject), before)
        assert not subject.components.optimizer.gradients.any() and subject.components.model.training
        assert [words.split(" (")[0] for words in described] == [
            "the fullest micro-batch",
            "the fullest micro-batch of the evaluation",
        ]
        if part == "new":  # the run is stopped after one step
            loader = subject.components.loader
            loader.load_from = lambda plan, start, load=loader.load_from: [next(iter(load(plan, start)))]
        subject.train()
    assert_same_adapter(tmp_path / "plain" / "checkpoint-000002", tmp_path / "tried" / "checkpoint-000002")
    assert metrics(tmp_path / "plain") == metrics(tmp_path / "tried")


def test_the_trial_takes_the_fullest_micro_batch_and_its_gradient(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", eval_data_path=None)
    run, seen = subject.components, []
    forward, step = subject._training_step, run.optimizer.gradients.zero_
    trial = MemoryTrial(run, lambda batch: seen.append(batch) or forward(batch), subject.config, subject.loss_config)
    (described, attempt), *others = trial.attempts()
    assert not others
    norms = []
    run.optimizer.gradients.zero_ = lambda: norms.append(run.optimizer.gradients.norm()) or step()
    run.model.train()
    trial.make(described, attempt)
    fullest = run.plan.fullest_micro_batch()
    positions = sum(run.data.train_dataset.lengths[i] for i in fullest)
    assert described == f"the fullest micro-batch ({len(fullest)} samples, {positions:,} positions)"
    assert len(seen) == 1 and len(seen[0].input_ids) == len(fullest) and norms[0] > 0


def test_a_run_whose_last_evaluation_alone_is_due_tries_that(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", max_steps=2)
    subject.components.state.step = 2
    assert [words.split(" (")[0] for words, _ in trial_of(subject).attempts()] == [
        "the fullest micro-batch of the evaluation"
    ]


def test_a_trial_that_fails_says_when_and_what_helps(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", recompute="none")
    subject.components.model.train()

    def out_of_memory(batch: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    trial = MemoryTrial(subject.components, out_of_memory, subject.config, subject.loss_config)
    (described, attempt), (in_evaluation, evaluate) = trial.attempts()
    with pytest.raises(NamedError) as caught:
        trial.make(described, attempt)
    assert f"(CUDA out of memory) when {described} was tried before step 1." in str(caught.value)
    assert "--recompute layer" in str(caught.value)
    with pytest.raises(NamedError) as caught:
        trial.make(in_evaluation, evaluate)
    assert f"when {in_evaluation} was tried before step 1." in str(caught.value)
    assert "--recompute" not in str(caught.value) and "--max_tokens_per_batch" in str(caught.value)
