"""Copies of a test process."""

import os
import threading

from tqdm import tqdm


def fork() -> int:
    """Return 0 in a copy of this process, and the copy's number in this one.

    tqdm's own lock is shared by all copies. One that is killed while it holds the lock would stop the others for ever,
    so the copy gets a lock of its own.
    """
    process = os.fork()
    if process == 0:
        tqdm.set_lock(threading.RLock())
    return process
