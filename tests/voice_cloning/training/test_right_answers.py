"""Right answers are counted as full logits give them: on all layers and heads, in chunks, over batches and ranks."""

import threading
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.model.higgs_audio import HiggsAudioModel, loss
from boson_multimodal.process_group import Ranks
from tests.fused_models import BATCHES, build_base, build_batch, build_model, fused
from tests.null_cuda import needs_null_cuda, report_of
from tests.training_runs import trainer
from voice_cloning.training.evaluation import Evaluator
from voice_cloning.training.losses import accuracies, answer_counts


@pytest.fixture(scope="module")
def base() -> HiggsAudioModel:
    return build_base()


@pytest.fixture(scope="module")
def plain(base: HiggsAudioModel) -> PeftModel:
    """A model whose heads are frozen, with plain layers."""
    return build_model(base).eval()


@pytest.fixture(scope="module")
def subjects(base: HiggsAudioModel, plain: PeftModel) -> list[tuple[PeftModel, PeftModel]]:
    """Models with plain and with fused layers: with frozen heads and with adapted ones, whose losses take two ways."""
    adapted_heads = build_model(base, lora_targets=["attention", "heads"]).eval()
    return [(model, fused(model).eval()) for model in (plain, adapted_heads)]


@torch.no_grad()
def partly_right(name: str, model: PeftModel) -> HiggsAudioBatchInput:
    """Return a batch in which the model is right about half of the codes and of the ends."""
    batch = build_batch(name, model.get_base_model())
    answers = model(**vars(batch), output_logits=True).audio_logits[:-1].argmax(dim=-1).T
    labels, end = batch.label_audio_ids[:, 1:], model.get_base_model().config.audio_stream_eos_id
    changed = (labels != IGNORE_INDEX) & (torch.rand(labels.shape) < 0.5)
    labels[changed] = answers[changed]
    labels[changed & (torch.rand(labels.shape) < 0.2)] = end
    return batch


def counts_of_logits(logits: Tensor, labels: Tensor, end: int) -> Tensor:
    """Return right codes, right ends and end labels, counted label by label.

    Args:
        logits: (C, K, V); labels: (K, C).
    """
    found = torch.zeros(3, labels.shape[0], dtype=torch.long)
    for k, column in (labels != IGNORE_INDEX).nonzero().tolist():
        label = int(labels[k, column])
        is_right = logits[column - 1, k].tolist().index(max(logits[column - 1, k].tolist())) == label
        found[0, k] += is_right and label != end
        found[1, k] += is_right and label == end
        found[2, k] += label == end
    return found.flatten()


@pytest.mark.parametrize("name", ["mixed", *BATCHES])
@torch.no_grad()
def test_counts_are_those_of_full_logits(
    subjects: list[tuple[PeftModel, PeftModel]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any chunk border."""
    for model, with_fused_layers in subjects:
        config = model.get_base_model().config
        batch = partly_right(name, model)
        logits = model(**vars(batch), output_logits=True).audio_logits
        wanted = counts_of_logits(logits, batch.label_audio_ids, config.audio_stream_eos_id)
        for rows in (1, 5, 10**6):
            monkeypatch.setattr(loss, "LOGITS_PER_CHUNK", rows * 8 * config.codebook_rows)
            for subject in (model, with_fused_layers):
                assert answer_counts(subject(**vars(batch))).tolist() == wanted.tolist()
    if name == "mixed":
        right_codes, right_ends, ends = wanted.view(3, -1).sum(dim=1).tolist()
        assert right_codes > 20 and 0 < right_ends < ends, "the batch tries every case"


def test_nothing_is_counted_with_gradients_or_in_training_mode(plain: PeftModel) -> None:
    """A training step launches no more than it did: the counter is not even made."""
    batch = build_batch("one sample", plain.get_base_model())
    for subject in (plain, fused(plain)):
        with patch.object(loss.RightAnswers, "add", side_effect=AssertionError):
            for training, gradients in ((True, True), (True, False), (False, True)):
                with torch.set_grad_enabled(gradients):
                    output = subject.train(training)(**vars(batch))
                assert output.right_code_count is output.right_end_count is output.end_label_count is None
        subject.eval()


def test_the_first_of_several_largest_logits_is_the_answer() -> None:
    answers = loss.RightAnswers(2, 3, torch.device("cpu"))
    answers.add(torch.zeros(4, 8), torch.tensor([[0, 1], [3, 0], [IGNORE_INDEX, 3], [0, IGNORE_INDEX]]))
    logits = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 2.0, 1.0]])
    answers.add(logits, torch.tensor([[3, 1]]))
    assert answers.counts_2G.tolist() == [[2, 2], [1, 0]]


def test_a_share_of_no_labels_is_absent() -> None:
    counts = torch.tensor([1.0, 0.0, 1.0, 0.0, 2.0, 0.0])  # right codes, right ends, ends; of two codebooks
    found = accuracies(counts, torch.tensor([6, 0]))
    assert found == {"accuracy_codebook_0": 0.25, "accuracy_end": 0.5, "accuracy_end_codebook_0": 0.5}
    assert accuracies(torch.zeros(6), torch.zeros(2)) == {}


@pytest.mark.slow
@needs_null_cuda
def test_counting_waits_for_no_device() -> None:
    code = """
import torch
from tests.fused_models import build_base, build_batch, build_model, fused, to_bfloat16
from voice_cloning.training.losses import answer_counts
found = []
for targets in (["attention"], ["attention", "heads"]):
    model = fused(to_bfloat16(build_model(build_base(), lora_targets=targets)).cuda()).eval()
    batch = build_batch("mixed", model.get_base_model())
    for _ in range(2):
        cuda.reset()
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            counts = answer_counts(model(**vars(batch)))
        found.append([cuda.read()["syncs"], counts.device.type, counts.numel()])
report({"found": found})
"""
    assert report_of(code)["found"][1::2] == [[0, "cuda", 24]] * 2


# -- evaluation --------------------------------------------------------------------------------------------------------


class RankOfThreads(Ranks):
    """A rank whose processes are threads."""

    def __init__(self, rank: int, others: list[Tensor | None], barrier: threading.Barrier) -> None:
        super().__init__(rank, rank, len(others))
        self.__dict__.update(others=others, barrier=barrier)

    def sum(self, tensor: Tensor) -> Tensor:
        self.others[self.rank] = tensor.clone()
        self.barrier.wait(60)
        tensor.copy_(sum(self.others))
        self.barrier.wait(60)
        return tensor

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor([int(flag)])))


def evaluated(subject: ArabicVoiceCloningDistributedTrainer, ranks: Ranks) -> dict[str, float]:
    run = subject.components
    evaluator = Evaluator(
        run.data.eval_dataset,
        type(run.loader)(run.data.eval_dataset, run.data.collator, ranks.rank),
        subject.config,
        subject.loss_config,
        ranks,
        run.num_codebooks,
    )
    return evaluator.evaluate(subject._training_step, lambda: False)


def test_accuracies_do_not_depend_on_micro_batches_and_ranks(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out", max_steps=1, max_tokens_per_batch=512)
    run = subject.components
    run.model.eval()
    eos = run.data.model_config.audio_stream_eos_id
    batch = run.data.collator([run.data.eval_dataset[i] for i in range(len(run.data.eval_dataset))])
    with torch.no_grad():
        logits = run.model(**vars(batch), output_logits=True).audio_logits
    counted = counts_of_logits(logits, batch.label_audio_ids, eos)
    wanted = {f"eval_{name}": share for name, share in accuracies(counted, (batch.label_audio_ids >= 0).sum(1)).items()}
    assert len(wanted) == 10
    for budget in (200, 4096):
        subject.config.max_tokens_per_batch = budget
        found = evaluated(subject, Ranks())
        assert {name: value for name, value in found.items() if "accuracy" in name} == wanted
        for world in (2, 3):
            others, barrier = [None] * world, threading.Barrier(world)
            results: list[dict[str, float]] = []
            threads = [
                threading.Thread(
                    target=lambda rank=rank, others=others, barrier=barrier, results=results: results.append(
                        evaluated(subject, RankOfThreads(rank, others, barrier))
                    )
                )
                for rank in range(world)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            assert len(results) == world
            for result in results:
                assert {name: value for name, value in result.items() if "accuracy" in name} == wanted
                assert result["eval_loss"] == pytest.approx(found["eval_loss"], rel=1e-6)
    run.opened.directory.close()
