"""The numbers of a run: summed exactly over micro-batches and ranks, written to metrics.jsonl, TensorBoard and W&B."""

import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from boson_multimodal.model.higgs_audio.loss import LossConfig, weighted_loss

REPORTERS = ("tensorboard", "wandb", "none")


@dataclass
class LossTotals:
    """Loss sums and label counts over any number of micro-batches, steps and ranks.

    Attributes:
        sums, counts: 1 + K entries in float64: the text head, then each codebook.
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def zeros(cls, num_codebooks: int) -> "LossTotals":
        return cls(torch.zeros(1 + num_codebooks, dtype=torch.float64), torch.zeros(1 + num_codebooks).double())

    def add(self, sums: Tensor, counts: Tensor) -> None:
        """Add (1 + K,) sums and counts that lie on the CPU."""
        self.sums += sums
        self.counts += counts

    def losses(self, config: LossConfig, prefix: str = "") -> dict[str, float]:
        """Total, text, audio and each codebook's mean loss, over the labels of all that was added."""
        means = self.sums / self.counts.clamp(min=1)
        total = weighted_loss(self.sums[0], self.counts[0], self.sums[1:], self.counts[1:], config)
        named = {"loss": total, "text_loss": means[0], "audio_loss": means[1:].mean()}
        named |= {f"audio_loss_codebook_{k}": mean for k, mean in enumerate(means[1:])}
        return {f"{prefix}{name}": float(value) for name, value in named.items()}

    def state(self) -> dict[str, list[float]]:
        return {"sums": self.sums.tolist(), "counts": self.counts.tolist()}

    @classmethod
    def from_state(cls, state: dict[str, list[float]]) -> "LossTotals":
        return cls(*(torch.tensor(state[name], dtype=torch.float64) for name in ("sums", "counts")))


class NonFiniteLossError(RuntimeError):
    """A loss or gradient is NaN or infinite; going on would destroy the adapter."""


@dataclass(frozen=True)
class PendingStep:
    """An optimizer step whose numbers may still be in the making on the device.

    Attributes:
        step: optimizer steps done with it.
        micro_batches: sample indices of this process's micro-batches.
        counts: (1 + K,) labels of the step over all processes, on the CPU.
        sums: (micro-batches, 1 + K + 1) loss sums of this process, and the gradient norm in the last column.
    """

    step: int
    micro_batches: Sequence[Sequence[int]]
    counts: Tensor
    sums: Tensor


class StepLedger:
    """Adds up the losses of steps, waiting for the device only when someone wants to know.

    Args:
        totals: what a resumed run had added up since its last log line.
        names: sample ids of sample indices, for messages.

    Attributes:
        totals: losses since the last :meth:`take`, of settled steps.
        grad_norm: of the last settled step, before clipping.
    """

    def __init__(self, totals: LossTotals, names: Callable[[Sequence[int]], str]) -> None:
        self.totals = totals
        self.grad_norm = 0.0
        self._names = names
        self._pending: list[PendingStep] = []

    def add(self, step: int, micro_batches: Sequence[Sequence[int]], counts: Tensor, sums: Tensor) -> None:
        """Note a step; does not wait."""
        self._pending.append(PendingStep(step, micro_batches, counts, sums))

    def settle(self) -> None:
        """Bring what is pending to the host, added over processes: the one place that waits for the device.

        Raises:
            NonFiniteLossError: on every process, if a loss or gradient among them is not finite.
        """
        if not self._pending:
            return
        local = torch.stack([pending.sums for pending in self._pending]).double()
        rows = local[:, :, :-1].sum(dim=1)
        if dist.is_initialized():
            dist.all_reduce(rows)
        local, rows = local.cpu(), rows.cpu()
        if not (rows.isfinite().all() and local.isfinite().all()):
            self._raise_non_finite(local)
        for pending, row in zip(self._pending, rows, strict=True):
            self.totals.add(row, pending.counts)
        self.grad_norm = float(local[-1, 0, -1])
        self._pending.clear()

    def take(self) -> LossTotals:
        """The totals since the last call; new ones begin."""
        self.settle()
        taken, self.totals = self.totals, LossTotals.zeros(self.totals.sums.numel() - 1)
        return taken

    def _raise_non_finite(self, local: Tensor) -> None:
        """Name the first step that went wrong and the samples of its micro-batches that did, over all processes."""
        guilty: list[tuple[int, str]] = []
        for pending, sums in zip(self._pending, local, strict=True):
            losses_finite = sums[:, :-1].isfinite().all(dim=1)
            named = zip(pending.micro_batches, losses_finite.tolist(), strict=True)
            guilty += [(pending.step, self._names(indices)) for indices, finite in named if not finite]
            if not guilty and not sums[0, -1].isfinite():  # only the gradient: any of them may be the cause
                guilty.append((pending.step, "; ".join(map(self._names, pending.micro_batches))))
        gathered: list[Any] = [guilty]
        if dist.is_initialized():
            gathered = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, guilty)
        first = min(step for found in gathered for step, _ in found)
        samples = "; ".join(dict.fromkeys(ids for found in gathered for step, ids in found if step == first and ids))
        raise NonFiniteLossError(
            f"the loss or its gradient is not finite at step {first}. Samples: {samples}. Nothing was saved after it; "
            "look at these samples, or lower --learning_rate in a new --output_dir"
        )


class Throughput:
    """Positions and trained frames per second since it was last read, evaluation and saving left out."""

    def __init__(self) -> None:
        self._positions = self._frames = 0
        self._seconds = 0.0
        self._started = time.perf_counter()

    def add(self, positions: int, frames: int) -> None:
        self._positions += positions
        self._frames += frames

    def pause(self) -> None:
        self._seconds += time.perf_counter() - self._started

    def go_on(self) -> None:
        self._started = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Rates since the last call."""
        self.pause()
        seconds = max(self._seconds, 1e-9)
        rates = {"tokens_per_second": self._positions / seconds, "frames_per_second": self._frames / seconds}
        self._positions, self._frames, self._seconds = 0, 0, 0.0
        self.go_on()
        return rates


class MetricsWriter:
    """Appends records to ``metrics.jsonl`` and to the chosen reporters.

    Args:
        metrics_path: already cut back to ``step``.
        reporters: of ``REPORTERS``.
        step: where the run begins; plots of later steps are dropped.
    """

    def __init__(self, metrics_path: Path, tensorboard: Path, reporters: list[str], step: int, config: dict) -> None:
        self._file = metrics_path.open("a", encoding="utf-8")
        self._tensorboard = self._wandb = None
        if "tensorboard" in reporters:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and not always wanted

            self._tensorboard = SummaryWriter(str(tensorboard), purge_step=step + 1)
        if "wandb" in reporters:
            import wandb  # optional; the configuration has checked that it is there

            self._wandb = wandb.init(config=config, dir=str(metrics_path.parent), resume="allow")

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; it holds ``step``."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        step, numbers = record["step"], {k: v for k, v in record.items() if k != "step"}
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(f"{'eval' if name.startswith('eval_') else 'train'}/{name}", value, step)
            self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def peak_memory_gb(device: torch.device) -> float:
    """Most memory held so far: by the allocator on CUDA, by the process elsewhere, in 10^9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
