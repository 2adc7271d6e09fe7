"""Checkpoints are written beside training: a thread writes what was copied on the device between two steps.

    step 100 -> copy on the device -> step 101, step 102, ...
                      |
                      +-> thread: to the host -> files -> fsync -> rename -> old checkpoints are removed

One checkpoint is written at a time. If the next one is due before that, training waits. If the disk does not take a
checkpoint, the run says so and goes on, and the thread tries again. The run ends with an error only if the next
checkpoint is due and cannot be written either.
"""

import copy
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from boson_multimodal.disk_errors import SLOW_SECONDS, DiskError
from boson_multimodal.process_group import Ranks
from voice_cloning.training.optimizer import AdapterOptimizer
from voice_cloning.training.run_directory import RunDirectory
from voice_cloning.training.state import TrainingState

logger = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
"""The time between two attempts to write a checkpoint that the disk did not take."""
LONGEST_WAIT_SECONDS = 300.0
"""How long training waits for a disk that does not answer, once the next checkpoint is due or the run is over."""
LAST_MOMENT_SECONDS = 5.0
"""The same after Ctrl-C: whoever gives it a second time does not want to wait."""


class CheckpointCopy:
    """Room on the device for a copy of what a checkpoint holds of it: 12 bytes for each trained weight.

    The room is kept, so that the memory of a step does not depend on when checkpoints are written.

    Args:
        model: the base model with the adapter.
        optimizer: holds the weights of the adapter and AdamW's state.
    """

    def __init__(self, model: PeftModel, optimizer: AdapterOptimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self._room = {name: torch.empty_like(tensor) for name, tensor in optimizer.lasting.items()}
        self._settings: dict[str, Any] = {}
        self._stream = self._taken = None
        if optimizer.values.device.type == "cuda":
            # On the stream of the steps, the copy to the host would come after all steps that are launched by then.
            self._stream, self._taken = torch.cuda.Stream(optimizer.values.device), torch.cuda.Event()

    def take(self) -> None:
        """Copy on the device, without waiting for it. Nobody may be using the copy before."""
        for name, tensor in self._optimizer.lasting.items():
            self._room[name].copy_(tensor)
        self._settings = self._optimizer.settings
        if self._taken is not None:
            self._taken.record(torch.cuda.current_stream(self._optimizer.values.device))

    def to_host(self) -> dict[str, Tensor]:
        """Return the copy on the host. This waits for the device; any thread may call it."""
        if self._stream is None:
            return self._room
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._taken)
            return {name: tensor.cpu() for name, tensor in self._room.items()}

    def save(self, folder: Path) -> None:
        """Write the files of the adapter and of the optimizer into a checkpoint's folder, as they were at the copy."""
        copied = self.to_host()
        weights = self._optimizer.weights_in(copied, self._model)
        self._model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
        self._optimizer.save(folder, copied, self._settings)


class _Writing(threading.Thread):
    """A checkpoint that is being written. The thread does not keep the program from ending.

    Attributes:
        step: of the checkpoint.
        began: time of the start, in seconds of ``time.monotonic``.
        error: what ended the thread; None while it runs, and if the checkpoint is written.
        said: what the run has said while this took long.
    """

    def __init__(self, step: int, work: Callable[[], None]) -> None:
        super().__init__(name=f"checkpoint of step {step}", daemon=True)
        self.step = step
        self.began = time.monotonic()
        self.error: BaseException | None = None
        self.said: set[str] = set()
        self._work = work

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised again in the main thread, whatever it is
            self.error = error

    def refusal(self) -> DiskError | None:
        """Return why the disk did not take the checkpoint, or None. Raises what else ended the thread."""
        if self.error is not None and not isinstance(self.error, DiskError):
            raise self.error
        return self.error


class CheckpointWriter:
    """Writes the checkpoints of a run in a thread of the main process; a context manager that waits for the last one.

    Args:
        directory: the folder of the run on the main process, None on the others, which have no thread and no copy.
        model: the base model with the adapter.
        optimizer: holds the weights of the adapter and AdamW's state.
        limit: number of checkpoints to keep besides the best one; 0 keeps all.
        ranks: the processes.
    """

    def __init__(
        self, directory: RunDirectory | None, model: PeftModel, optimizer: AdapterOptimizer, limit: int, ranks: Ranks
    ) -> None:
        self._directory = directory
        self._copy = None if directory is None else CheckpointCopy(model, optimizer)
        self._limit = limit
        self._ranks = ranks
        self._writing: _Writing | None = None
        self._settle: Callable[[float], None] = lambda seconds: None
        self._is_due = threading.Event()
        """Set when the thread must not try again."""

    def write_first(self, settle: Callable[[float], None]) -> None:
        """Let the thread wait for the metrics of a step before it writes the checkpoint, at most so many seconds."""
        self._settle = settle

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an error, wait for the checkpoint that is being written: it is of a step before the error."""
        if self._writing is None or error is None or isinstance(error, DiskError):
            return  # there was no error, or it comes from this thread, and the wait is over
        self._is_due.set()
        is_interrupted = isinstance(error, KeyboardInterrupt)
        self._writing.join(LAST_MOMENT_SECONDS if is_interrupted else LONGEST_WAIT_SECONDS)
        failure = self._writing.error
        if failure is not None and failure is not error and not isinstance(failure, DiskError):
            logger.warning("the checkpoint of step %d is not written: %s", self._writing.step, failure)

    def begin(
        self, state: TrainingState, write: Callable[[TrainingState, CheckpointCopy, Path], None], last: bool
    ) -> None:
        """Copy what the checkpoint of this step holds, and begin to write it. All processes must call this.

        Training waits if the checkpoint before is still being written. It also waits for this one if it is the last
        one, or if the one before could not be written.

        Args:
            state: the state of the run.
            write: writes a state and the copy into a folder; called in a thread.
            last: whether no further checkpoint is due.

        Raises:
            InputError: on every process, if the disk does not take a checkpoint for which training waits.
        """
        with self._ranks.failing_together():
            if self._directory is not None:
                self._begin(copy.deepcopy(state), write, last)
        state.saved_step = state.step

    def check(self) -> None:
        """Say if a write takes long, and raise what ended it, unless it was the disk. Called after each step."""
        writing = self._writing
        if writing is None:
            return
        if writing.is_alive():
            self._say_if_slow(writing, "training goes on")
        else:
            writing.refusal()

    def finish(self) -> None:
        """Wait until the last checkpoint is written. All processes must call this.

        Raises:
            InputError: on every process, if it cannot be written.
        """
        with self._ranks.failing_together():
            if (problem := self._wait()) is not None:
                raise problem

    # -- on the main process ---------------------------------------------------------------------------------------

    def _begin(
        self, state: TrainingState, write: Callable[[TrainingState, CheckpointCopy, Path], None], last: bool
    ) -> None:
        waits = self._wait() is not None or last
        self._copy.take()
        if waits:
            self._is_due.set()
        else:
            self._is_due.clear()
        self._writing = _Writing(state.step, lambda: self._write_until_due(state, write))
        self._writing.start()
        if waits:
            problem = self._wait()
            if problem is not None:
                raise problem

    def _wait(self) -> DiskError | None:
        """Wait for the checkpoint that is being written, if any. Return why the disk did not take it, or None.

        Raises:
            DiskError: if the disk does not answer.
        """
        writing = self._writing
        if writing is None:
            return None
        self._is_due.set()
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while writing.is_alive() and time.monotonic() < deadline:
            writing.join(min(1.0, SLOW_SECONDS, LONGEST_WAIT_SECONDS))
            self._say_if_slow(writing, f"training waits for it, for at most {LONGEST_WAIT_SECONDS:.0f} s")
        if writing.is_alive():
            what = (
                f"the checkpoint of step {writing.step} has been written for {time.monotonic() - writing.began:.0f} s"
            )
            raise DiskError(
                f"{self._directory.folder}: the disk does not answer; {what}",
                f"Run the same command again when it does: {self._directory.resumes}",
            )
        return writing.refusal()

    def _say_if_slow(self, writing: _Writing, what: str) -> None:
        seconds = time.monotonic() - writing.began
        if seconds < SLOW_SECONDS or what in writing.said or not writing.is_alive():
            return
        writing.said.add(what)
        path = self._directory.checkpoint_path(writing.step)
        logger.warning("%s: has been written for %.0f s, because the disk is slow; %s", path, seconds, what)

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _write_until_due(
        self, state: TrainingState, write: Callable[[TrainingState, CheckpointCopy, Path], None]
    ) -> None:
        """Write a checkpoint. If the disk does not take it, try again until the next one is due."""
        began, attempts = time.monotonic(), 0
        self._settle(LONGEST_WAIT_SECONDS)  # the card and a resume need the lines of this step
        while True:
            attempts += 1
            try:
                self._directory.save_checkpoint(state.step, lambda folder: write(state, self._copy, folder))
                break
            except DiskError as error:
                if self._is_due.is_set():
                    raise
                if attempts == 1:
                    self._say_refused(state.step, error)
                if self._is_due.wait(RETRY_SECONDS):
                    raise
        self._directory.prune_checkpoints(self._limit, state.best and state.best.step)
        seconds = time.monotonic() - began
        if attempts > 1 or seconds > SLOW_SECONDS:
            logger.warning("the checkpoint of step %d is written now, after %.0f s", state.step, seconds)

    def _say_refused(self, step: int, error: DiskError) -> None:
        newest = self._directory.newest
        logger.warning(
            "%s. The checkpoint of step %d is not written; training goes on, and it is tried again every %.0f s. Make "
            "room or make the folder writable: if the next checkpoint cannot be written either, the run ends. The "
            "newest checkpoint is %s",
            error.problem,
            step,
            RETRY_SECONDS,
            "none yet" if newest is None else newest,
        )
