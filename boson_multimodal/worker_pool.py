"""Applies a function to many items in several processes; these import only its module, and end with this process."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.connection import wait
from types import TracebackType
from typing import TypeVar

from boson_multimodal.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 8
"""Items that a worker process takes at a time."""
AHEAD = 2
"""Large items that are queued for each worker process."""


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
    with ProcessPoolExecutor(workers, context, _begin_worker) as pool:
        try:
            with _interrupts_blocked():  # workers inherit this while they import, before they ignore interrupts
                results = pool.map(function, items, chunksize=CHUNK)
            return list(progress(results, title, len(items), unit=unit))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class WorkerPool:
    """Processes for several series of large items; a context manager. They start when a series has two items.

    Processes are spawned (see :func:`map_in_processes`).

    Args:
        workers: number of processes; with one, all work is done in this process.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=error is None, cancel_futures=True)

    def stream(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield ``function(item)`` for each item, in order. Only a few items are in memory at a time."""
        items = iter(items)
        first = list(islice(items, 2))
        if self.workers <= 1 or len(first) < 2:
            yield from map(function, chain(first, items))
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, _begin_worker)
        queue: deque[Future[Result]] = deque()
        for item in chain(first, items):
            with _interrupts_blocked():
                queue.append(self._pool.submit(function, item))
            if len(queue) > AHEAD * self.workers:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, in this thread and in the processes that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: a worker of a killed process would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
