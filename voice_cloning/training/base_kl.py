"""Pulls the predictions of a model with an adapter towards those of its base: ``--base_kl_weight``.

What an adapter is not trained on, it forgets. The divergence from the base (``divergence.py``) at the positions with a
label is added to the loss, with the base's predictions from a second forward pass without the adapter. It is a mean
over labels like the loss, with the same weights of the heads::

    loss + base_kl_weight * (text_weight * KL_text + audio_weight * mean_k KL_k)

Only a share of the micro-batches pays for the second pass. The sums of these stand for all: they are divided by the
label counts of the whole step, as the loss sums are, and by the share.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.model.higgs_audio.divergence import divergence_sums
from boson_multimodal.model.higgs_audio.loss import LossConfig, weighted_loss
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput, LabelStates
from boson_multimodal.seeds import seed_of
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.losses import loss_sums

Forward = Callable[[HiggsAudioBatchInput], HiggsAudioModelOutput]
"""A forward pass of the trainer."""


@dataclass(frozen=True)
class MicroBatchPlace:
    """Where a micro-batch stands in a run, on any number of processes.

    Attributes:
        step: optimizer steps before it.
        number: of the micro-batch among those of all processes in the step.
    """

    step: int
    number: int


class BaseKL:
    """The divergence from the base in the loss of a run.

    Args:
        model: the base with its adapter. Its output keeps the states of the rows with a label from now on.
        config: gives the weight, the share, and the seed that chooses the micro-batches.
        loss_config: weights of the heads.
        dtype: of the computation.
    """

    def __init__(
        self,
        model: PeftModel,
        config: DistributedTrainingConfig,
        loss_config: LossConfig,
        dtype: torch.dtype,
    ) -> None:
        self._model = model
        self._base = model.get_base_model()
        self._base.keep_label_states = True
        self._config = config
        self._loss_config = loss_config
        self._dtype = dtype
        columns = 1 + self._base.config.audio_num_codebooks
        self._sums = torch.zeros(2, columns, dtype=torch.float64, device=self._base.device)

    def takes(self, place: MicroBatchPlace) -> bool:
        """Return whether a micro-batch is among the share: a draw from the seed of the run and the place alone."""
        return seed_of(self._config.seed, place.step, place.number) < self._config.base_kl_share * 2**63

    def predict(self, forward: Forward, batch: HiggsAudioBatchInput) -> LabelStates:
        """Return what the base computes for a micro-batch. Without the adapter, nothing in this is random."""
        with torch.no_grad(), self._model.disable_adapter():
            return forward(batch).label_states

    def loss(self, output: HiggsAudioModelOutput, base: LabelStates, counts: Tensor) -> Tensor:
        """Return what is added to the loss of a micro-batch, a scalar.

        Args:
            output: of the model with its adapter.
            base: what the base computed for the same micro-batch.
            counts: (1 + K,) labels of the whole step over all processes, on the device.
        """
        states, heads, config = output.label_states, self._base.audio_decoder_proj, self._base.config
        audio_logits = config.audio_num_codebooks * config.codebook_rows
        with torch.autocast(counts.device.type, self._dtype, enabled=self._dtype != torch.float32):
            text, audio = (
                divergence_sums(self._base.norm, (head, _without_adapter(head)), hidden, other, targets, width)
                for head, hidden, other, targets, width in (
                    (heads.text_lm_head, states.text_RD, base.text_RD, states.text_labels_RG, config.vocab_size),
                    (heads.audio_lm_head, states.audio_RD, base.audio_RD, states.audio_labels_RG, audio_logits),
                )
            )
        labels = torch.cat([output.text_label_count.view(1), output.audio_label_count])
        self._sums += torch.stack([torch.cat([text, audio]).detach(), labels])
        scale = self._config.base_kl_weight / self._config.base_kl_share
        return scale * weighted_loss(text.squeeze(0), counts[0], audio, counts[1:], self._loss_config)

    def take(self) -> Tensor:
        """Return the (2, 1 + K) divergence sums and label counts of this process since the last call, on the device.

        Only the labels of micro-batches that took part are counted.
        """
        taken, self._sums = self._sums, torch.zeros_like(self._sums)
        return taken


def make_base_kl(
    model: PeftModel, config: DistributedTrainingConfig, loss_config: LossConfig, dtype: torch.dtype
) -> BaseKL | None:
    """Return the divergence in the loss of a run, or None if its weight is 0."""
    return BaseKL(model, config, loss_config, dtype) if config.base_kl_weight else None


def micro_batch_loss(
    forward: Forward,
    batch: HiggsAudioBatchInput,
    counts: Tensor,
    loss_config: LossConfig,
    base_kl: BaseKL | None,
    place: MicroBatchPlace | None = None,
) -> tuple[Tensor, Tensor]:
    """Run one micro-batch forward.

    Args:
        forward: one forward pass of the trainer.
        counts: (1 + K,) labels of the whole step over all processes, on the device.
        base_kl: the divergence from the base; None if it is not in the loss.
        place: decides whether this micro-batch takes part in it. Without a place, it does.

    Returns:
        (the part of the micro-batch in the loss of the step, its (1 + K,) loss sums without a gradient).
    """
    takes_part = base_kl is not None and (place is None or base_kl.takes(place))
    base = base_kl.predict(forward, batch) if takes_part else None
    output = forward(batch)
    loss = weighted_loss(output.text_loss_sum, counts[0], output.audio_loss_sum, counts[1:], loss_config)
    if base is not None:
        loss = loss + base_kl.loss(output, base, counts)
    return loss, loss_sums(output).detach()


def _without_adapter(head: nn.Module) -> nn.Module:
    """Return the frozen layer of a head."""
    return head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
