"""Read and collate the batches of each optimizer step, one step ahead of the training loop."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, HiggsAudioBatchInput
from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.sample_dataset import SampleDataset
from voice_cloning.training.batch_planning import MicroBatch, StepPlan, TrainingPlan


@dataclass(frozen=True)
class StepBatches:
    """The batches of one process in one optimizer step.

    Attributes:
        epoch: number of the epoch, from 0.
        sample_indices: the samples of each micro-batch of this process.
        micro_batches: the same samples, collated; None for an empty one.
        positions: sequence positions of the step over all processes.
    """

    epoch: int
    sample_indices: tuple[MicroBatch, ...]
    micro_batches: tuple[HiggsAudioBatchInput | None, ...]
    positions: int


class BatchLoader:
    """Reads and collates this process's samples.

    Args:
        dataset: encoded samples.
        collator: makes batches of samples.
        rank: rank of this process.
    """

    def __init__(self, dataset: SampleDataset, collator: ArabicVoiceCloningTrainingCollator, rank: int) -> None:
        self._dataset = dataset
        self._collator = collator
        self._rank = rank

    def load(self, plan: StepPlan, epoch: int = 0) -> StepBatches:
        """Return this process's batches of one step."""
        mine, dataset = plan.of_rank(self._rank), self._dataset.of_epoch(epoch)
        collated = (self._collator([dataset[i] for i in indices]) if indices else None for indices in mine)
        return StepBatches(epoch, mine, tuple(collated), plan.positions)

    def load_from(self, plan: TrainingPlan, start: int) -> Iterator[StepBatches]:
        """Yield the batches of each step from step ``start`` on. A thread loads the next step at the same time."""
        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for epoch, step_plan in plan.steps_from(start):
                following = pool.submit(self.load, step_plan, epoch)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            if ahead is not None:
                yield ahead.result()


def count_labels(micro_batches: Sequence[HiggsAudioBatchInput | None], num_codebooks: int) -> Tensor:
    """Return (1 + K,) label counts of micro-batches, on the host: the text head, then each codebook."""
    counts = torch.zeros(1 + num_codebooks, dtype=torch.long)
    for batch in filter(None, micro_batches):
        counts[0] += (batch.label_ids != IGNORE_INDEX).sum()
        counts[1:] += (batch.label_audio_ids != IGNORE_INDEX).sum(dim=1)
    return counts
