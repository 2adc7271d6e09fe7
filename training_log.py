"""The numbers of a run: summed exactly over micro-batches and ranks, written to metrics.jsonl, TensorBoard and W&B."""

import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
