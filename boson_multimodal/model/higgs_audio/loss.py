"""The training loss: cross entropy at the positions with a label, as sums and counts (never as means of means).

With ``audio_logits`` of shape (columns of all segments, K, V) and labels aligned with the inputs::

    audio:  CE_k = cross_entropy(audio_logits[:-1, k], label_audio_ids[k, 1:])     (column 0 of a segment has no label)
    text:   CE   = cross_entropy(logits[:, :-1], expanded_labels[:, 1:])
    loss    = text_weight * CE_text + audio_weight * mean_k CE_k

The shift by one happens here (:func:`next_text_labels`, :func:`next_audio_labels`) and nowhere else.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.errors import InputError
from boson_multimodal.flags import flag
from boson_multimodal.model.higgs_audio.packing import PackedBatch
from boson_multimodal.model.higgs_audio.products import product
from boson_multimodal.model.higgs_audio.rms_norm import FrozenRMSNorm

LOGITS_PER_CHUNK = 2**25
"""The most logits of one head in memory: 134 MB in fp32, 261 rows of the released text head."""


@dataclass(kw_only=True)
class LossConfig:
    """Weights of the two heads in the training loss.

    Attributes:
        text_weight: factor of the text cross entropy.
        audio_weight: factor of the audio cross entropy, which is a mean over codebooks.
    """

    text_weight: float = flag(1.0, "Factor of the text cross entropy in the loss.", card="setting")
    audio_weight: float = flag(
        1.0, "Factor of the audio cross entropy (mean over codebooks) in the loss.", card="setting"
    )

    _argument_group_name = "loss"

    def __post_init__(self) -> None:
        for name in ("text_weight", "audio_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; it must be a finite number of at least 0")
        if self.text_weight == self.audio_weight == 0.0:
            raise InputError("text_weight and audio_weight are both 0: there would be nothing to train")


def next_text_labels(label_ids_N: Tensor, position_ids_N: Tensor) -> Tensor:
    """Return the label that each position predicts: the label of the next position of the same sample.

    The last position of a sample gets ``IGNORE_INDEX``.

    Args:
        label_ids_N, position_ids_N: (N,) in sample order. Position 0 is the first of a sample.
    """
    following = torch.full_like(label_ids_N, IGNORE_INDEX)
    following[:-1] = label_ids_N[1:].masked_fill(position_ids_N[1:] == 0, IGNORE_INDEX)
    return following


def next_audio_labels(label_audio_ids_KC: Tensor) -> Tensor:
    """Return the (C, K) labels that each audio column predicts: those of the next column. The last has none."""
    following = torch.full_like(label_audio_ids_KC, IGNORE_INDEX)
    following[:, :-1] = label_audio_ids_KC[:, 1:]
    return following.T


@dataclass(frozen=True)
class LabelRows:
    """The positions of a packed batch that predict a label, in routed order, and what they predict. All on the CPU.

    Attributes:
        text_R, text_labels_R: the rows that predict a text label, in sample order, and these labels.
        audio_R, audio_labels_RK: the rows that predict an audio label in any codebook, and the labels of each codebook;
            ``IGNORE_INDEX`` where a codebook has none.
    """

    text_R: Tensor
    text_labels_R: Tensor
    audio_R: Tensor
    audio_labels_RK: Tensor

    @classmethod
    def of(cls, packed: PackedBatch, label_audio_ids_KC: Tensor | None, num_codebooks: int) -> "LabelRows":
        """Find the rows of a batch. Without labels of a kind, there are no rows of this kind."""
        text_labels = packed.label_ids_N
        if text_labels is None:
            text_labels = torch.full_like(packed.input_ids_N, IGNORE_INDEX)
        if label_audio_ids_KC is None:
            label_audio_ids_KC = torch.full((num_codebooks, packed.num_audio_out), IGNORE_INDEX)
        text_labels = next_text_labels(text_labels, packed.position_ids_N)
        audio_labels = next_audio_labels(label_audio_ids_KC)
        text = (text_labels != IGNORE_INDEX).nonzero().squeeze(-1)
        audio = (audio_labels != IGNORE_INDEX).any(dim=1).nonzero().squeeze(-1)
        first_audio_out = packed.num_text + packed.num_audio_in
        return cls(packed.sample_from_routed[text], text_labels[text], audio + first_audio_out, audio_labels[audio])


class RightAnswers:
    """Counts the labels whose logit is the largest of all logits of their group, without waiting for the device.

    Args:
        end_id: the label that is counted apart.

    Attributes:
        counts_2G: (2, G) int64 on the device of the logits: right labels but the end, and right ends.
    """

    def __init__(self, num_groups: int, end_id: int, device: torch.device) -> None:
        self.counts_2G = torch.zeros(2, num_groups, dtype=torch.int64, device=device)
        self._end_id = end_id

    def add(self, logits: Tensor, targets_RG: Tensor) -> None:
        """Count over (R, G * V) logits. Of several largest logits, the first one is the answer."""
        is_right = logits.view(*targets_RG.shape, -1).argmax(dim=-1) == targets_RG  # IGNORE_INDEX is no answer
        is_end = targets_RG == self._end_id
        self.counts_2G += torch.stack([is_right & ~is_end, is_right & is_end]).sum(dim=1)


def head_loss_sums(
    norm: nn.Module,
    head: nn.Module,
    hidden_RD: Tensor,
    targets_RG: Tensor,
    num_logits: int,
    answers: RightAnswers | None = None,
) -> Tensor:
    """Return the summed cross entropy of one head over R rows, for each of its G groups of classes.

    Norm and head run on chunks of rows, so that at most ``LOGITS_PER_CHUNK`` logits exist at a time. With gradients
    they run again in the backward pass. A head that is not a plain frozen layer is called as a module, so an adapter on
    it is applied.

    Args:
        norm: the final norm, (rows, D) to (rows, D).
        head: maps (rows, D) to (rows, G * V) logits.
        hidden_RD: (R, D) hidden states before the final norm, of the rows with a label.
        targets_RG: (R, G) labels, ``IGNORE_INDEX`` where a group of a row has no label.
        num_logits: G * V.
        answers: counts the right answers. Only without gradients, because they would run chunks a second time.

    Returns:
        (G,) sums in fp32.
    """
    rows_per_chunk = max(1, LOGITS_PER_CHUNK // num_logits)
    is_frozen = not any(parameter.requires_grad for module in (norm, head) for parameter in module.parameters())
    if type(head) is nn.Linear and head.bias is None and is_frozen:
        return FrozenHeadLoss.apply(hidden_RD, FrozenRMSNorm(norm), head.weight, targets_RG, rows_per_chunk, answers)
    sums = torch.zeros(targets_RG.shape[1], dtype=torch.float32, device=hidden_RD.device)
    for hidden, targets in zip(hidden_RD.split(rows_per_chunk), targets_RG.split(rows_per_chunk), strict=True):
        if hidden.shape[0] == 0:  # split() of an empty tensor yields one empty chunk
            continue
        sums = sums + checkpoint(_chunk_loss_sums, norm, head, hidden, targets, answers, use_reentrant=False)
    return sums


def _chunk_loss_sums(
    norm: nn.Module, head: nn.Module, hidden_RD: Tensor, targets_RG: Tensor, answers: RightAnswers | None
) -> Tensor:
    logits = head(norm(hidden_RD))
    if answers is not None:
        answers.add(logits, targets_RG)
    log_p = _log_probabilities(logits, targets_RG)
    del logits
    return _loss_sums(log_p, targets_RG)


def _log_probabilities(logits: Tensor, targets_RG: Tensor) -> Tensor:
    """Return (R, G, V) in fp32."""
    return F.log_softmax(logits.view(*targets_RG.shape, -1), dim=-1, dtype=torch.float32)


def _loss_sums(log_p_RGV: Tensor, targets_RG: Tensor) -> Tensor:
    """Return the (G,) summed cross entropy."""
    of_labels = log_p_RGV.gather(-1, targets_RG.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -of_labels.masked_fill(targets_RG == IGNORE_INDEX, 0.0).sum(dim=0)


class FrozenHeadLoss(Function):
    """The loss of a head whose weights are not trained, with its gradient: d logits = softmax(logits) - one-hot.

    The gradient of a single chunk is made at once, without the factor that the backward pass gives to each group.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        norm: FrozenRMSNorm,
        weight: Tensor,
        targets_RG: Tensor,
        rows_per_chunk: int,
        answers: RightAnswers | None,
    ) -> Tensor:
        """Return the (G,) sums of ``head_loss_sums``."""
        ctx.norm, ctx.weight, ctx.rows_per_chunk = norm, weight, rows_per_chunk
        sums = torch.zeros(targets_RG.shape[1], dtype=torch.float32, device=hidden_RD.device)
        at_once = 0 < hidden_RD.shape[0] <= rows_per_chunk and ctx.needs_input_grad[0]
        made: tuple[Tensor, ...] = ()
        with torch.autocast(hidden_RD.device.type, enabled=False):
            for start in range(0, hidden_RD.shape[0], rows_per_chunk):
                rows = slice(start, start + rows_per_chunk)
                normed, scale = norm.forward(hidden_RD[rows])
                logits = product(normed, weight)
                if answers is not None:
                    answers.add(logits, targets_RG[rows])
                log_p = _log_probabilities(logits, targets_RG[rows])
                del logits
                sums += _loss_sums(log_p, targets_RG[rows])
                if at_once:
                    made = scale, _d_logits(log_p, targets_RG).to(hidden_RD.dtype)
        ctx.save_for_backward(hidden_RD, targets_RG, *made)
        return sums

    @staticmethod
    def backward(ctx: Any, d_sums_G: Tensor) -> Any:
        hidden_RD, targets_RG, *made = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden_RD)
        for start in range(0, hidden_RD.shape[0], ctx.rows_per_chunk):
            rows = slice(start, start + ctx.rows_per_chunk)
            hidden, targets = hidden_RD[rows], targets_RG[rows]
            if made:
                scale, d_logits = made
            else:
                normed, scale = ctx.norm.forward(hidden)
                log_p = _log_probabilities(product(normed, ctx.weight), targets)
                d_logits = _d_logits(log_p, targets).to(hidden.dtype)
                del log_p
            factor_RG = (d_sums_G * (targets != IGNORE_INDEX)).to(d_logits.dtype)
            if targets.shape[1] == 1:  # the factor of all logits of a row is that of their product
                d_normed = product(d_logits.flatten(1), ctx.weight.t()).mul_(factor_RG)
            else:
                d_normed = product((d_logits * factor_RG.unsqueeze(-1)).flatten(1), ctx.weight.t())
            del d_logits
            d_hidden[rows] = ctx.norm.backward(d_normed, hidden, scale)
        return d_hidden, None, None, None, None, None


def _d_logits(log_p_RGV: Tensor, targets_RG: Tensor) -> Tensor:
    """Return softmax(logits) - one-hot, in the memory of the logarithms. Rows without a label are not set to zero."""
    p = log_p_RGV.exp_()
    minus_one = p.new_full((1,), -1.0).expand(*targets_RG.shape, 1)
    return p.scatter_add_(-1, targets_RG.clamp(min=0).unsqueeze(-1), minus_one)


def weighted_loss(
    text_loss_sum: Tensor,
    text_label_count: Tensor,
    audio_loss_sum: Tensor,
    audio_label_count: Tensor,
    config: LossConfig,
) -> Tensor:
    """Return the scalar loss of sums and counts.

    For the loss of a single batch, give the sums and counts of that batch. In training, give the sums of a micro-batch
    and the counts of the whole optimizer step (all micro-batches and ranks). The results add up to the step's loss.

    Args:
        text_loss_sum, text_label_count: scalars.
        audio_loss_sum, audio_label_count: (K,).
    """
    text = text_loss_sum / text_label_count.clamp(min=1)
    audio = (audio_loss_sum / audio_label_count.clamp(min=1)).mean()
    return config.text_weight * text + config.audio_weight * audio
