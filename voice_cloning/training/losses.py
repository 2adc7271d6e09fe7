"""The losses and right answers of a run, summed exactly over micro-batches, steps and processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boson_multimodal.errors import NamedError
from boson_multimodal.model.higgs_audio.loss import LossConfig, weighted_loss
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from boson_multimodal.process_group import Ranks


def loss_sums(output: HiggsAudioModelOutput) -> Tensor:
    """Return the (1 + K,) loss sums of a forward pass: the text head, then each codebook."""
    return torch.cat([output.text_loss_sum.view(1), output.audio_loss_sum])


@dataclass
class LossTotals:
    """Loss sums and label counts over any number of micro-batches, steps and ranks.

    Attributes:
        sums, counts: 1 + K entries in float64: the text head, then each codebook.
        base_kl: the same of the divergence from the base; None if it is not in the loss.
    """

    sums: Tensor
    counts: Tensor
    base_kl: "LossTotals | None" = None

    @classmethod
    def zeros(cls, num_codebooks: int) -> "LossTotals":
        return cls(torch.zeros(1 + num_codebooks, dtype=torch.float64), torch.zeros(1 + num_codebooks).double())

    def add(self, sums: Tensor, counts: Tensor) -> None:
        """Add (1 + K,) sums and counts that lie on the CPU."""
        self.sums += sums
        self.counts += counts

    def reset(self) -> None:
        """Set all sums and counts to zero."""
        self.sums.zero_()
        self.counts.zero_()
        self.base_kl = None

    def losses(self, config: LossConfig, prefix: str = "") -> dict[str, float]:
        """Return the total, text and audio loss and the loss of each codebook, as means over all labels added.

        The total does not hold ``base_kl``, which is the mean divergence from the base, without its weight.
        """
        means = self.sums / self.counts.clamp(min=1)
        total = weighted_loss(self.sums[0], self.counts[0], self.sums[1:], self.counts[1:], config)
        named = {"loss": total, "text_loss": means[0], "audio_loss": means[1:].mean()}
        named |= {f"audio_loss_codebook_{k}": mean for k, mean in enumerate(means[1:])}
        if self.base_kl is not None and self.base_kl.counts.any():
            named["base_kl"] = self.base_kl.losses(config)["loss"]
        return {f"{prefix}{name}": float(value) for name, value in named.items()}

    def state(self) -> dict[str, Any]:
        own = {"sums": self.sums.tolist(), "counts": self.counts.tolist()}
        return own if self.base_kl is None else own | {"base_kl": self.base_kl.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "LossTotals":
        base_kl = cls.from_state(state["base_kl"]) if "base_kl" in state else None
        return cls(*(torch.tensor(state[name], dtype=torch.float64) for name in ("sums", "counts")), base_kl)


def answer_counts(output: HiggsAudioModelOutput) -> Tensor:
    """Return the (3 * K,) counts of a forward pass in evaluation mode: right codes, right ends, end labels."""
    return torch.cat([output.right_code_count, output.right_end_count, output.end_label_count])


def accuracies(counts: Tensor, label_counts: Tensor) -> dict[str, float]:
    """Return the shares of labels whose logit is the largest of their codebook. A share of no labels is absent.

    Args:
        counts: (3 * K,) sums of :func:`answer_counts`.
        label_counts: (K,) audio labels of each codebook, ends included.

    Returns:
        ``accuracy_codebook_k`` of the codes of a codebook; ``accuracy_end`` of the ends of all codebooks;
        ``accuracy_end_codebook_0`` of those of the first codebook: the others have its end in their input.
    """
    right_codes, right_ends, ends = counts.view(3, -1)
    codes = label_counts - ends
    shares = {f"accuracy_codebook_{k}": (right_codes[k], codes[k]) for k in range(len(codes))}
    shares["accuracy_end"] = right_ends.sum(), ends.sum()
    shares["accuracy_end_codebook_0"] = right_ends[0], ends[0]
    return {name: float(right / count) for name, (right, count) in shares.items() if count > 0}


class NonFiniteLossError(NamedError):
    """A loss or gradient is NaN or infinite. Further training would destroy the adapter."""


@dataclass(frozen=True)
class PendingStep:
    """An optimizer step whose numbers the device may still be computing.

    Attributes:
        step: number of optimizer steps done, including this one.
        micro_batches: sample indices of this process's micro-batches.
        counts: (1 + K,) labels of the step over all processes, on the CPU.
        sums: (micro-batches, 1 + K + 1) loss sums of this process, and the gradient norm in the last column.
    """

    step: int
    micro_batches: Sequence[Sequence[int]]
    counts: Tensor
    sums: Tensor


class StepLedger:
    """Adds up the losses of steps. It waits for the device only when the sums are needed.

    Args:
        totals: receives the losses of settled steps.
        names: returns the sample ids of sample indices, for messages.
        ranks: the processes, whose sums are added.
        take_base_kl: returns the (2, 1 + K) sums and counts of the divergence from the base on this process since its
            last call; None if the divergence is not in the loss.

    Attributes:
        totals: losses of the steps settled since the last :meth:`take`.
        grad_norm: gradient norm of the last settled step, before clipping.
    """

    def __init__(
        self,
        totals: LossTotals,
        names: Callable[[Sequence[int]], str],
        ranks: Ranks,
        take_base_kl: Callable[[], Tensor] | None = None,
    ) -> None:
        self.totals = totals
        self.grad_norm = 0.0
        self._names = names
        self._ranks = ranks
        self._take_base_kl = take_base_kl
        self._pending: list[PendingStep] = []

    def add(self, step: PendingStep) -> None:
        """Note a step without waiting for its numbers."""
        self._pending.append(step)

    def settle(self) -> None:
        """Copy the pending numbers to the host and add them over processes. Only this method waits for the device.

        Raises:
            NonFiniteLossError: on every process, if a loss or gradient among them is not finite.
        """
        if not self._pending:
            return
        local = torch.stack([pending.sums for pending in self._pending]).double()
        rows = self._ranks.sum(local.sum(dim=1))
        numbers = torch.cat([local, rows[:, None]], dim=1).cpu()  # one copy, because each copy waits for the device
        local, rows = numbers[:, :-1], numbers[:, -1, :-1]
        if not (rows.isfinite().all() and local.isfinite().all()):
            self._raise_non_finite(local)
        for pending, row in zip(self._pending, rows, strict=True):
            self.totals.add(row, pending.counts)
        if self._take_base_kl is not None:
            self._add_base_kl(*self._ranks.sum(self._take_base_kl()).cpu())
        self.grad_norm = float(local[-1, 0, -1])
        self._pending.clear()

    @property
    def has_losses(self) -> bool:
        """Whether there is a label since the last :meth:`take`."""
        return bool(self._pending) or bool(self.totals.counts.any())

    def take(self) -> LossTotals:
        """Return the totals since the last call, and begin new ones."""
        self.settle()
        taken = LossTotals(self.totals.sums.clone(), self.totals.counts.clone(), self.totals.base_kl)
        self.totals.reset()
        return taken

    def _add_base_kl(self, sums: Tensor, counts: Tensor) -> None:
        if self.totals.base_kl is None:
            self.totals.base_kl = LossTotals.zeros(len(sums) - 1)
        self.totals.base_kl.add(sums, counts)

    def _raise_non_finite(self, local: Tensor) -> None:
        """Raise an error that names the first step that is not finite, and its samples on all processes."""
        guilty: list[tuple[int, str]] = []
        for pending, sums in zip(self._pending, local, strict=True):
            losses_finite = sums[:, :-1].isfinite().all(dim=1)
            named = zip(pending.micro_batches, losses_finite.tolist(), strict=True)
            guilty += [(pending.step, self._names(indices)) for indices, finite in named if not finite]
            if not guilty and not sums[0, -1].isfinite():  # only the gradient: any sample may be the cause
                guilty.append((pending.step, "; ".join(map(self._names, pending.micro_batches))))
        everywhere = self._ranks.gather(guilty)
        first = min(step for found in everywhere for step, _ in found)
        samples = "; ".join(dict.fromkeys(ids for found in everywhere for step, ids in found if step == first and ids))
        raise NonFiniteLossError(
            f"the loss or its gradient is not finite at step {first}. Samples: {samples}. Nothing was saved from this "
            "step on; check these samples, or lower --learning_rate in a new --output_dir"
        )
