"""Try the fullest micro-batches before the first step, so that a lack of memory shows before any time is lost.

The fullest batch of speech is tried too.
"""

import logging
from collections.abc import Callable

import torch

from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.cards import GB
from boson_multimodal.device_memory import hold_one_block
from boson_multimodal.memory_remedies import naming_lack_of_memory
from boson_multimodal.model.higgs_audio.loss import LossConfig
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from boson_multimodal.model.higgs_audio.transfer import to_device
from boson_multimodal.process_group import Ranks
from boson_multimodal.sample_dataset import SampleDataset
from voice_cloning.evaluation.asked_samples import cache_positions
from voice_cloning.run.components import TrainingComponents
from voice_cloning.run.memory_advice import training_remedies
from voice_cloning.training.base_kl import micro_batch_loss
from voice_cloning.training.batch_planning import MicroBatch, fullest_evaluation_batch
from voice_cloning.training.batches import count_labels
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.losses import loss_sums

logger = logging.getLogger(__name__)

Forward = Callable[[HiggsAudioBatchInput], HiggsAudioModelOutput]
"""A forward pass of the trainer."""


def try_fullest_micro_batches(
    run: TrainingComponents, forward: Forward, config: DistributedTrainingConfig, loss_config: LossConfig, ranks: Ranks
) -> None:
    """Try the fullest micro-batches on a GPU (see :class:`MemoryTrial`), and log the memory that they take.

    The allocator then holds that memory as one block, which the steps divide (see :func:`hold_one_block`).

    Every process tries the same ones. On a CPU nothing is done.

    Raises:
        NamedError: if a micro-batch does not fit. It says what helps.
    """
    trial = MemoryTrial(run, forward, config, loss_config)
    if trial.device.type != "cuda":
        return
    total, highest = torch.cuda.mem_get_info(trial.device)[1] / GB, 0
    for described, attempt in trial.attempts():
        torch.cuda.reset_peak_memory_stats(trial.device)
        trial.make(described, attempt)
        peak = torch.cuda.max_memory_allocated(trial.device)
        highest = max(highest, peak)
        if ranks.is_main:
            logger.info("%s takes %.1f GB of %.1f GB", described, peak / GB, total)
    hold_one_block(trial.device, highest)
    torch.cuda.reset_peak_memory_stats(trial.device)  # metrics have the peak of the steps


class MemoryTrial:
    """The fullest micro-batches of a run: that of training forward and backward, that of the evaluation forward.

    The fullest batch of speech too, with the key-value cache that it has if no clip ends.

    After each of them the weights, the optimizer and the random generators are as before, the model is in training
    mode, and the gradients are zero, as they are between two steps.

    Args:
        run: the components of the run.
        forward: one forward pass of the trainer.
        config: gives the size of micro-batches.
        loss_config: weights of the losses.

    Attributes:
        device: of the model.
    """

    def __init__(
        self, run: TrainingComponents, forward: Forward, config: DistributedTrainingConfig, loss_config: LossConfig
    ) -> None:
        self._run = run
        self._forward = forward
        self._config = config
        self._loss_config = loss_config
        self.device: torch.device = run.optimizer.gradients.device

    def attempts(self) -> list[tuple[str, Callable[[], None]]]:
        """Return what the rest of the run still needs: each micro-batch in words, and a function that tries it."""
        run, found = self._run, []
        if not run.state.is_last_step:
            epoch, indices = run.plan.fullest()
            data = run.data.train_dataset.of_epoch(epoch)
            described = f"the fullest micro-batch ({_size(data, indices)})"
            found.append((described, lambda: self._train_on(self._batch(data, indices))))
        if run.data.eval_dataset is not None:
            tried = run.data.eval_dataset
            chosen = fullest_evaluation_batch(tried.lengths, self._config)
            described = f"the fullest micro-batch of the evaluation ({_size(tried, chosen)})"
            found.append((described, lambda: self._evaluate(self._batch(tried, chosen))))
        if run.speech is not None:
            batch = run.speech.fullest_batch
            samples = "1 sample" if len(batch) == 1 else f"{len(batch)} samples"
            found.append(
                (f"the fullest batch of speech ({samples}, {cache_positions(batch):,} positions)", self._speak)
            )
        return found

    def make(self, described: str, attempt: Callable[[], None]) -> None:
        """Make one of :meth:`attempts`.

        Raises:
            NamedError: if memory is used up. It says what helps.
        """

        def where() -> str:
            return f"when {described} was tried before step {self._run.state.step + 1}"

        generators = [self.device] if self.device.type == "cuda" else []
        with (
            naming_lack_of_memory(self.device, where, lambda: training_remedies(self._config, self._run, self.device)),
            torch.random.fork_rng(generators),
        ):
            attempt()

    def _batch(self, dataset: SampleDataset, indices: MicroBatch) -> HiggsAudioBatchInput:
        return self._run.data.collator([dataset[i] for i in indices])

    def _train_on(self, batch: HiggsAudioBatchInput) -> None:
        counts = to_device(count_labels([batch], self._run.num_codebooks).float(), self.device)
        loss, _ = micro_batch_loss(self._forward, batch, counts, self._loss_config, self._run.base_kl)
        loss.backward()
        self._run.optimizer.gradients.zero_()

    @torch.no_grad()
    def _evaluate(self, batch: HiggsAudioBatchInput) -> None:
        self._run.model.eval()
        loss_sums(self._forward(batch))
        self._run.model.train()

    def _speak(self) -> None:
        self._run.model.eval()
        self._run.speech.take_most_memory(self._run.model.get_base_model())
        self._run.model.train()


def _size(dataset: SampleDataset, indices: MicroBatch) -> str:
    samples = "1 sample" if len(indices) == 1 else f"{len(indices)} samples"
    return f"{samples}, {sum(dataset.lengths[i] for i in indices):,} positions"
