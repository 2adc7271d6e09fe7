"""How far the predictions of a head are from those of another one, at the positions with a label.

The divergence of a position is KL(q || p) = sum_v q_v (log q_v - log p_v): q is the other head's prediction, p the
head's own. Its gradient is d logits = p - q, that of a cross entropy whose label is the whole distribution q. In this
direction, p pays for each class that q holds to be likely and p does not: what q could say stays possible.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from boson_multimodal.constants import IGNORE_INDEX
from boson_multimodal.model.higgs_audio.loss import LOGITS_PER_CHUNK

LOGITS_PER_HALF_CHUNK = LOGITS_PER_CHUNK // 2
"""Here a chunk is smaller than in the loss, because three numbers exist for each logit at a time and not two."""


def divergence_sums(
    norm: nn.Module,
    heads: tuple[nn.Module, nn.Module],
    hidden_RD: Tensor,
    other_RD: Tensor,
    targets_RG: Tensor,
    num_logits: int,
) -> Tensor:
    """Return the summed divergence of one head over R rows, for each of its G groups of classes.

    Norm and heads run on chunks of rows, and again in the backward pass, so that the logits of a chunk alone exist at a
    time. Gradients go to ``hidden_RD`` and to what is trained in the first head, and not to the other prediction.

    Args:
        norm: the final norm, (rows, D) to (rows, D).
        heads: the head, and the other one; each maps (rows, D) to (rows, G * V) logits.
        hidden_RD, other_RD: (R, D) the states that each of them reads, before the final norm.
        targets_RG: (R, G) labels. Where one is ``IGNORE_INDEX``, nothing is added; the other labels do not matter.
        num_logits: G * V.

    Returns:
        (G,) sums in fp32, in nats.
    """
    rows_per_chunk = max(1, LOGITS_PER_HALF_CHUNK // num_logits)
    sums = torch.zeros(targets_RG.shape[1], dtype=torch.float32, device=hidden_RD.device)
    for chunk in zip(*(rows.split(rows_per_chunk) for rows in (hidden_RD, other_RD, targets_RG)), strict=True):
        if chunk[0].shape[0] == 0:  # split() of an empty tensor yields one empty chunk
            continue
        sums = sums + checkpoint(_chunk_sums, norm, *heads, *chunk, use_reentrant=False)
    return sums


def _chunk_sums(
    norm: nn.Module, head: nn.Module, other: nn.Module, hidden_RD: Tensor, other_RD: Tensor, targets_RG: Tensor
) -> Tensor:
    with torch.no_grad():
        other_logits = other(norm(other_RD))
    return Divergence.apply(head(norm(hidden_RD)), other_logits, targets_RG)


class Divergence(Function):
    """The (G,) sums of one chunk from (R, G * V) logits, with the gradient that the module's docstring states."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, other_logits: Tensor, targets_RG: Tensor) -> Tensor:
        shape = *targets_RG.shape, -1
        log_p = F.log_softmax(logits.view(shape), dim=-1, dtype=torch.float32)
        log_q = F.log_softmax(other_logits.view(shape), dim=-1, dtype=torch.float32)
        q = log_q.exp()
        ignored = targets_RG == IGNORE_INDEX
        sums = torch.linalg.vecdot(q, log_q.sub_(log_p)).masked_fill(ignored, 0.0).sum(dim=0)
        del log_q
        # Of the backward pass only this number for each logit is left.
        d_logits = log_p.exp_().sub_(q).masked_fill_(ignored.unsqueeze(-1), 0.0).to(logits.dtype)
        ctx.save_for_backward(d_logits)
        return sums

    @staticmethod
    def backward(ctx: Any, d_sums_G: Tensor) -> Any:
        (d_logits,) = ctx.saved_tensors
        return (d_logits * d_sums_G[:, None].to(d_logits.dtype)).flatten(1), None, None
