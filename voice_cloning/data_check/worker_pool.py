"""Applies a function to many items in several processes, with a progress bar; these import only its module."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from boson_multimodal.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 8
"""Items that a worker process takes at a time."""


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str, unit: str
) -> list[Result]:
    """Return ``[function(item) for item in items]``; with one worker or few items it runs in this process.

    Processes are spawned, not forked: a fork of a process in which torch has started threads may hang.
    """
    workers = min(workers, -(-len(items) // CHUNK))
    if workers <= 1:
        return [function(item) for item in progress(items, title, unit=unit)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _leave_interrupts_to_parent) as pool:
        try:
            with _interrupts_blocked():  # workers inherit this while they import, before they ignore interrupts
                results = pool.map(function, items, chunksize=CHUNK)
            return list(progress(results, title, len(items), unit=unit))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, in this thread and in the processes that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
