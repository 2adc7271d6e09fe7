"""Write the metrics of a run while it trains, and show its progress as a bar or as lines."""

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from boson_multimodal.model.higgs_audio.loss import LossConfig
from boson_multimodal.process_group import Ranks
from boson_multimodal.progress import messages_above_bars, shows_bars
from voice_cloning.training.base_kl import BaseKL
from voice_cloning.training.batches import StepBatches
from voice_cloning.training.evaluation_words import evaluation_line, without_better
from voice_cloning.training.losses import PendingStep, StepLedger
from voice_cloning.training.patient_writer import PatientWriter
from voice_cloning.training.state import TrainingState

logger = logging.getLogger(__name__)


class Throughput:
    """Measures positions and trained frames per second, without the time of evaluation and saving."""

    def __init__(self) -> None:
        self._positions = self._frames = 0
        self._seconds = 0.0
        self._started = time.perf_counter()

    def add(self, positions: int, frames: int) -> None:
        self._positions += positions
        self._frames += frames

    def pause(self) -> None:
        self._seconds += time.perf_counter() - self._started

    def resume(self) -> None:
        self._started = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Return the rates since the last call."""
        self.pause()
        seconds = max(self._seconds, 1e-9)
        rates = {"tokens_per_second": self._positions / seconds, "frames_per_second": self._frames / seconds}
        self._positions, self._frames, self._seconds = 0, 0, 0.0
        self.resume()
        return rates


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory in 10^9 bytes: that of the allocator on CUDA, that of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux counts kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class ProgressLog:
    """The log of a run while it trains; a context manager that closes the files.

    Args:
        writer: writes metrics on the main process, None on the others.
        state: the state of the run. Its totals receive the losses.
        sample_ids: returns the sample ids of sample indices, for messages.
        loss_config: weights of the losses.
        ranks: the processes.
        device: the device of the model, whose peak memory is logged.
        base_kl: the divergence from the base, which is logged too; None if it is not in the loss.
        keep_best_by: what chooses the best evaluation.
    """

    def __init__(
        self,
        writer: PatientWriter | None,
        state: TrainingState,
        sample_ids: Callable[[Sequence[int]], str],
        loss_config: LossConfig,
        ranks: Ranks,
        device: torch.device,
        base_kl: BaseKL | None = None,
        keep_best_by: str = "loss",
    ) -> None:
        self._writer = writer
        self._keep_best_by = keep_best_by
        self._state = state
        self._loss_config = loss_config
        self._ranks = ranks
        self._device = device
        self._ledger = StepLedger(state.totals, sample_ids, ranks, base_kl and base_kl.take)
        self._throughput = Throughput()
        hidden = not (ranks.is_main and shows_bars())
        self._bar = tqdm(
            total=state.total_steps, initial=state.step, desc="training", unit="step", disable=hidden, leave=True
        )
        self._open = ExitStack()

    def __enter__(self) -> "ProgressLog":
        if shows_bars():
            self._open.enter_context(messages_above_bars())
        self._open.callback(self._bar.close)
        if self._writer is not None:
            self._open.callback(self._writer.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add_step(self, batches: StepBatches, label_counts: Tensor, sums: Tensor) -> None:
        """Note one optimizer step without waiting for the device.

        Args:
            batches: the batches of this process.
            label_counts: (1 + K,) labels of the step over all processes.
            sums: (micro-batches, 1 + K + 1) loss sums of this process, and the gradient norm in the last column.
        """
        self._ledger.add(PendingStep(self._state.step, batches.sample_indices, label_counts, sums))
        self._throughput.add(batches.positions, int(label_counts[1]))
        self._bar.update()

    def write_losses(self, learning_rate: float) -> None:
        """Write the mean losses over all labels since the last call.

        Raises:
            NonFiniteLossError: if a loss or gradient is not finite.
        """
        losses = self._ledger.take().losses(self._loss_config)
        rates = self._throughput.read()
        if self._bar.disable:
            self.log_main(
                "step %d of %d: loss %.4f, learning rate %.2e, %.0f tokens/s",
                self._state.step,
                self._state.total_steps,
                losses["loss"],
                learning_rate,
                rates["tokens_per_second"],
            )
        else:
            shown = {"loss": f"{losses['loss']:.4f}", "lr": f"{learning_rate:.2e}"}
            self._bar.set_postfix(shown | {"tokens_per_s": f"{rates['tokens_per_second']:.0f}"})
        optimizer = {"grad_norm": self._ledger.grad_norm, "learning_rate": learning_rate}
        self._write({**losses, **optimizer, "peak_memory_gb": peak_memory_gb(self._device), **rates})

    def announce_evaluation(self) -> None:
        """Log that an evaluation begins, if no bar shows it."""
        if self._bar.disable:
            self.log_main("step %d: evaluating", self._state.step)

    def write_evaluation(self, results: dict[str, float], is_best: bool) -> None:
        """Write what an evaluation found: losses and accuracies, the figures of spoken clips, both, or nothing."""
        if not results:
            return
        self.log_main("step %d: %s", self._state.step, evaluation_line(results, is_best, self._keep_best_by))
        self._write(results)

    def write_early_end(self, learning_rate: float) -> None:
        """Say that ``--patience`` ends the run with this step, and write the losses since the last line."""
        if self._ledger.has_losses:
            self.write_losses(learning_rate)
        waited, best = self._state.evaluations_without_better, self._state.best
        message = "step %d: %s; the run ends here (--patience %d)"
        self.log_main(message, self._state.step, without_better(best and best.step), waited)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Settle the losses of all steps, then exclude the time of the block from the throughput.

        Raises:
            NonFiniteLossError: if a loss or gradient is not finite.
        """
        self._ledger.settle()
        self._throughput.pause()
        yield
        self._throughput.resume()

    def log_main(self, message: str, *values: Any) -> None:
        """Log a message on the main process."""
        if self._ranks.is_main:
            logger.info(message, *values)

    def _write(self, record: dict[str, float]) -> None:
        with self._ranks.failing_together():
            if self._writer is not None:
                self._writer.write({"step": self._state.step, **record})
