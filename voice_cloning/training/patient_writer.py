"""What a run writes besides its checkpoints neither holds up training nor ends it, whatever the disk does."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from torch import Tensor

from boson_multimodal.disk_errors import SLOW_SECONDS, DiskError
from voice_cloning.training.metrics import MetricsWriter

logger = logging.getLogger(__name__)

LAST_WAIT_SECONDS = 60.0
"""How long the end of a run waits for a disk that does not answer. The checkpoint is written by then."""


class PatientWriter:
    """Gives records to a ``MetricsWriter`` in a thread, in their order.

    If the disk does not take them, this is said once. Lines and plotted numbers wait in memory, and are written as soon
    as the disk takes them; clips and pictures are left out. Any other error is raised by the next call.

    Args:
        writer: the writer, which nobody else uses from now on.
    """

    def __init__(self, writer: MetricsWriter) -> None:
        self._writer = writer
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._is_refused = False
        self._job_began: float | None = None
        """Time at which the present job began, in seconds of ``time.monotonic``."""
        self._slow_job: float | None = None
        """Start of the last job that was said to be slow."""
        # It does not keep the program from ending.
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def write(self, record: dict[str, Any]) -> None:
        """Write one record of numbers, which must hold ``step``."""
        self._give(partial(self._writer.write, record))

    def write_sample(self, record: dict[str, Any]) -> None:
        """Write the record of one spoken sample. It must hold ``step`` and ``sample``."""
        self._give(partial(self._writer.write_sample, record))

    def write_clip(self, name: str, samples: Tensor, sampling_rate: int) -> None:
        """Write (samples,) in -1..1 to a WAV file of this name below the folder of the run."""
        self._give(partial(self._writer.write_clip, name, samples, sampling_rate))

    def write_sound(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        """Give (samples,) in -1..1 to the reporters, to be heard."""
        self._give(partial(self._writer.write_sound, step, tag, samples, sampling_rate))

    def write_mel(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        """Give a picture of the mel spectrogram of (samples,) in -1..1 to the reporters."""
        self._give(partial(self._writer.write_mel, step, tag, samples, sampling_rate))

    def settle(self, seconds: float) -> None:
        """Wait until what was given is written, or waits because the disk does not take it; at most so long."""
        done, deadline = threading.Event(), time.monotonic() + seconds
        self._jobs.put(done.set)
        while not done.wait(0.1) and self._thread.is_alive() and time.monotonic() < deadline:
            pass

    def close(self) -> None:
        """Write what is left, and close the files.

        Raises:
            BaseException: what ended the thread.
        """
        self._jobs.put(None)
        self._thread.join(LAST_WAIT_SECONDS)
        if self._thread.is_alive():
            logger.warning("the disk does not answer; the last lines of metrics may not be written")
            return
        if self._failure is None:
            self._attempt(self._writer.write_waiting)
        if self._writer.waiting:
            logger.warning("%d records of metrics could not be written and are lost", self._writer.waiting)
        self._writer.close()
        if self._failure is not None:
            raise self._failure

    def _give(self, job: Callable[[], None]) -> None:
        if self._failure is not None:
            raise self._failure
        began = self._job_began
        if began is not None and began != self._slow_job and time.monotonic() - began > SLOW_SECONDS:
            self._slow_job = began
            logger.warning("%s: the disk is slow; metrics wait in memory, and training goes on", self._writer.folder)
        self._jobs.put(job)

    def _work(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                self._job_began = time.monotonic()
                self._attempt(job)
                self._job_began = None
        except BaseException as error:  # raised by the next call, whatever it is
            self._failure = error

    def _attempt(self, job: Callable[[], None]) -> None:
        """Do a job, unless the disk refuses it, which is said once until everything is written again."""
        waited = self._writer.waiting
        try:
            job()
        except DiskError as error:
            if not self._is_refused:
                logger.warning(
                    "%s. Training goes on. Lines of metrics wait in memory until the disk takes them; clips and "
                    "pictures are left out. Make room or make the folder writable",
                    error.problem,
                )
            self._is_refused = True
            return
        if waited and not self._writer.waiting:
            self._is_refused = False
            logger.info("the lines of metrics that waited are written now")
