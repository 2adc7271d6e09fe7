"""Compute evaluation losses and accuracies: means over all labels, independent of micro-batches and processes."""

from collections.abc import Callable

import torch
from torch import Tensor

from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.model.higgs_audio.loss import LossConfig
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from boson_multimodal.process_group import Ranks
from boson_multimodal.progress import progress
from boson_multimodal.sample_dataset import SampleDataset
from voice_cloning.training.batch_planning import plan_evaluation
from voice_cloning.training.batches import BatchLoader, count_labels
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.losses import LossTotals, accuracies, answer_counts, loss_sums


class Evaluator:
    """Evaluates a model on one dataset.

    Args:
        dataset: the evaluation data, encoded.
        loader: reads the batches of the dataset.
        config: gives the size of micro-batches.
        loss_config: weights of the losses.
        ranks: the processes, which divide the batches among them.
        num_codebooks: K.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        loader: BatchLoader,
        config: DistributedTrainingConfig,
        loss_config: LossConfig,
        ranks: Ranks,
        num_codebooks: int,
    ) -> None:
        self._dataset = dataset
        self._loader = loader
        self._config = config
        self._loss_config = loss_config
        self._ranks = ranks
        self._num_codebooks = num_codebooks

    @torch.no_grad()
    def evaluate(
        self, forward: Callable[[HiggsAudioBatchInput], HiggsAudioModelOutput], stop_requested: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Return the mean losses by name (``eval_loss``, ``eval_text_loss``, ...) and the accuracies of ``accuracies``
        (``eval_accuracy_end``, ...), or None if a process must stop.

        Args:
            forward: one forward pass of the model, in inference mode.
            stop_requested: returns whether this process must stop; called before each micro-batch.
        """
        plan = plan_evaluation(
            self._dataset.lengths,
            max_tokens_per_batch=self._config.max_tokens_per_batch,
            batch_size=self._config.batch_size,
            world_size=self._ranks.world_size,
        )
        totals = LossTotals.zeros(self._num_codebooks)
        sums: Tensor | None = None  # on the device, so that no batch waits for it
        for step_plan in progress(plan, "evaluating", unit="batch", leave=False, disable=not self._ranks.is_main):
            if self._ranks.any(stop_requested()):
                return None
            micro_batches = self._loader.load(step_plan).micro_batches
            totals.counts += count_labels(micro_batches, self._num_codebooks)
            for batch in filter(None, micro_batches):
                output = forward(batch)
                added = torch.cat([loss_sums(output).double(), answer_counts(output)])
                sums = added if sums is None else sums + added
        summed = torch.zeros(1 + 4 * self._num_codebooks, dtype=torch.float64) if sums is None else sums.cpu()
        self._ranks.sum(summed)
        self._ranks.sum(totals.counts)
        totals.sums, right = summed.split([1 + self._num_codebooks, 3 * self._num_codebooks])
        shares = accuracies(right, totals.counts[1:])
        return totals.losses(self._loss_config, "eval_") | {f"eval_{name}": share for name, share in shares.items()}
