"""Measure clips on all cores. Worker processes import this module and no torch, so that they start at once."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from tqdm import tqdm

from boson_multimodal.audio_processing.sound_files import Clip
from tools.prepare_data.audio_facts import AudioFacts, measure_clip

CLIPS_PER_TASK = 8
CLIPS_WORTH_A_POOL = 32
"""Fewer are measured before worker processes have started."""


def measure_clips(clips: Sequence[Clip], processes: int | None) -> dict[Clip, AudioFacts]:
    """Measure every clip, on all cores."""
    processes = min(processes or len(os.sched_getaffinity(0)), -(-len(clips) // CLIPS_PER_TASK))
    if len(clips) < CLIPS_WORTH_A_POOL or processes < 2:
        return dict(zip(clips, tqdm(map(measure_clip, clips), "reading clips", len(clips), unit="clip"), strict=True))
    with (
        _one_thread_each(),
        ProcessPoolExecutor(processes, get_context("spawn"), _leave_interrupts_to_the_parent) as pool,
    ):
        try:
            found = pool.map(measure_clip, clips, chunksize=CLIPS_PER_TASK)
            return dict(zip(clips, tqdm(found, "reading clips", len(clips), unit="clip"), strict=True))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread for linear algebra: there is one for each core already."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
