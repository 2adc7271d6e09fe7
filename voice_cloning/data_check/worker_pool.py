"""A function applied to many items by processes of their own, with a bar; they import its module and no more."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from boson_multimodal.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 8
"""Items that a worker takes at once, where there are many."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str, unit: str
) -> list[Result]:
    """``[function(item) for item in items]``; with one worker, or little to do, in this process.

    Processes are spawned, not forked: a fork of a process in which torch has begun threads may never come to life.
    """
    workers = min(workers, -(-len(items) // CHUNK))
    if workers <= 1:
        return [function(item) for item in progress(items, title, unit=unit)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _leave_interrupts_to_parent) as pool:
        try:
            results = pool.map(function, items, chunksize=CHUNK)
            return list(progress(results, title, len(items), unit=unit))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
