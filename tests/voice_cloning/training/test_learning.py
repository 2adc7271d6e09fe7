"""The loop in this process: exact sums over micro-batches, memorising, schedules, seeds and evaluation."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.constants import IGNORE_INDEX
from tests.training_runs import EVERY_GROUP, assert_same_adapter, metrics, trainer
from voice_cloning.training.batches import StepBatches, count_labels
from voice_cloning.training.config import RECOMPUTE_LEVELS
from voice_cloning.training.fused_layers import FusedLayers

# -- sums over micro-batches -------------------------------------------------------------------------------------------


def loss_and_gradients(subject: ArabicVoiceCloningDistributedTrainer, split: list[list[int]]) -> tuple[float, Tensor]:
    """Return a step's loss and the gradient of every adapter weight, for a split of samples into micro-batches."""
    captured: list[Tensor] = []
    run = subject.components
    run.optimizer._adamw.step = lambda: captured.append(run.optimizer.gradients.clone())
    collated = tuple(
        run.data.collator([run.data.train_dataset[i] for i in indices]) if indices else None for indices in split
    )
    counts = count_labels(collated, run.num_codebooks)
    sums = subject._optimizer_step(StepBatches(0, tuple(map(tuple, split)), collated, 0), counts)[:, :-1].sum(dim=0)
    means = sums / counts
    return (means[0] + means[1:].mean()).item(), captured[0]


def split_by_parameter(subject: ArabicVoiceCloningDistributedTrainer, flat: Tensor) -> Iterator[Tensor]:
    return iter(flat.split([p.numel() for p in subject.components.optimizer.parameters]))


@pytest.mark.parametrize(
    "split",
    [
        [[0], [1, 2, 3, 4], [5], [6, 7]],
        [[7, 3, 1, 0, 2, 6, 5, 4]],
        [[0, 1, 2, 3, 4, 5, 6], [7], [], []],
    ],
    ids=["accumulation of 4", "permuted batch", "very uneven, two empty"],
)
@pytest.mark.parametrize("recompute", RECOMPUTE_LEVELS)
def test_loss_and_gradients_do_not_depend_on_the_split(
    demo: Path, tmp_path: Path, split: list[list[int]], recompute: str
) -> None:
    settings = {"lora_dropout": 0.0, "max_grad_norm": 0.0, "lora_targets": EVERY_GROUP, "recompute": recompute}
    subject = trainer(demo, tmp_path / "out", **settings)
    assert isinstance(subject.components.model.get_base_model().label_layers, FusedLayers)
    with torch.no_grad():
        for parameter in subject.components.optimizer.parameters:  # LoRA B starts at 0, which hides the gradient of A
            parameter.copy_(0.05 * torch.randn_like(parameter))
    loss, gradients = loss_and_gradients(subject, [list(range(8))])
    other_loss, other_gradients = loss_and_gradients(subject, split)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    pairs = zip(split_by_parameter(subject, gradients), split_by_parameter(subject, other_gradients), strict=True)
    for one, other in pairs:
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()


def test_the_label_counts_are_those_of_the_batches(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out")
    batch = subject.components.data.collator([subject.components.data.train_dataset[i] for i in (0, 1)])
    counts = count_labels([batch, None, batch], subject.components.num_codebooks)
    output = subject._training_step(batch)
    assert counts[0] == 2 * output.text_label_count
    assert counts[1:].tolist() == (2 * output.audio_label_count).tolist()


# -- learning ----------------------------------------------------------------------------------------------------------


def test_memorises_four_clips_to_the_last_eos(memorised: ArabicVoiceCloningDistributedTrainer) -> None:
    """Greedy teacher-forced accuracy of every codebook is 100 %, eos included; the text is learnt too."""
    subject = memorised
    batch = subject.components.data.collator([subject.components.data.train_dataset[i] for i in range(4)])
    with torch.no_grad():
        output = subject.components.model(**vars(batch), output_logits=True)
    labels = batch.label_audio_ids[:, 1:]
    is_label = labels != IGNORE_INDEX
    right = output.audio_logits[:-1].argmax(dim=-1).T == labels
    assert is_label.sum() == 8 * sum(frames + 1 for frames in target_frames(subject))
    assert (labels == subject.components.data.model_config.audio_stream_eos_id).sum() == 4 * 8
    assert right[is_label].all()
    text = output.expanded_labels[:, 1:]
    assert (output.logits[:, :-1].argmax(dim=-1) == text)[text != IGNORE_INDEX].all()


def target_frames(subject: ArabicVoiceCloningDistributedTrainer) -> list[int]:
    """Return the number of frames of each sample's last clip."""
    samples = [subject.components.data.train_dataset[i] for i in range(len(subject.components.data.train_dataset))]
    return [s.audio_ids_concat.shape[1] - int(s.audio_ids_start[-1]) for s in samples]


def test_evaluation_is_the_mean_over_all_labels(demo: Path, tmp_path: Path) -> None:
    """The mean does not depend on how the evaluation data are split into micro-batches."""
    results = []
    for name, budget in (("small", 200), ("large", 4096)):
        subject = trainer(demo, tmp_path / name, max_steps=1, max_tokens_per_batch=512)
        subject.config.max_tokens_per_batch = budget
        subject.components.model.eval()
        results.append(subject.components.evaluator.evaluate(subject._training_step, lambda: False)["eval_loss"])
        subject.components.opened.directory.close()
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(demo: Path, tmp_path: Path) -> None:
    one, two, other = (
        trainer(demo, tmp_path / name, seed=seed).train().checkpoint for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert_same_adapter(one, two)
    with pytest.raises(AssertionError):
        assert_same_adapter(one, other)


def test_bfloat16_trains_with_float32_adapters(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", torch_dtype="bfloat16", max_steps=8, logging_steps=1, eval_data_path=None)
    assert {p.dtype for p in subject.components.optimizer.parameters} == {torch.float32}
    assert {p.dtype for p in subject.components.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert subject.train().finished
    losses = [line["loss"] for line in metrics(tmp_path / "out")]
    assert losses[-1] < losses[0]
