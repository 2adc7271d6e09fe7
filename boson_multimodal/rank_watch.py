"""Ends every process of a group soon after one of them has ended before its work was done.

A process that waits for another one in a collective does not learn that the other has ended: NCCL never notices it, and
gloo notices it only on the connection that it reads from. So each process has a thread that waits for a word from the
rank before it, over a connection of its own:

    rank 0 --word--> rank 1 --word--> rank 2 --word--> rank 0

The word is "goodbye" when all ranks have done their work. A rank that fails names itself instead. If it is killed, the
system closes its connections, which tells as much. Then the next rank passes the word on and ends, and so does every
other rank. The word has no time limit, so a rank may work for hours while others wait.

A process that is stopped, or whose machine is gone, sends no word and closes nothing. The rank after it notices that
its heartbeats stay away (``heartbeats.py``).
"""

import hashlib
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from traceback import walk_tb
from typing import NoReturn

import torch
from torch import distributed as dist

from boson_multimodal import heartbeats
from boson_multimodal.command_line import SECONDS_BEFORE_OTHER_RANKS_REPORT, tell_torchrun
from boson_multimodal.machines import machine_name

FAILED = 1
"""Exit status of a process that ends because another one has ended."""
WAIT_FOR_WORD_SECONDS = 8.0
"""How long a process waits for the word of another rank that failed first, before it reports its own error."""
LINGER_SECONDS = 1.0
"""How long the first rank to fail stays after its message. Meanwhile others that fail too learn that it was first."""
STEP_BACK_SECONDS = 0.5
"""How long a process stays after the word, so that a launcher sees that the other rank ended first."""
SECONDS_AFTER_THE_FIRST = 2
"""How much later than the first to fail, in torchrun's eyes, the others end. It counts whole seconds."""
FOREVER = timedelta(days=3650)
TIME_TO_TELL = timedelta(seconds=5)
"""How long a rank that ends tries to tell the next one."""
GOODBYE = -1
KILLED, SILENT = 0, -1
"""What stands in the place of the digest of a message, for a rank that has ended or been stopped without one."""
FIRST_FAILURE = "first_failure"
"""Key of the rank that failed first."""
WAITED_IN_VAIN = "waited_in_vain"
"""With the number of a rank, the key of a rank that waited in a collective until that failed."""
SECONDS_TO_COME_LATE = 3.0
"""How much earlier than others a rank may come to a collective that fails."""


class RankWatch:
    """Watches over the other ranks of the process group. All ranks must make one at the same time.

    Args:
        store: the store of the process group.
    """

    def __init__(self, store: dist.Store) -> None:
        self._store = store
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=FOREVER)
        self._machines = [""] * self._world_size
        dist.all_gather_object(self._machines, machine_name(), group=self._group)
        self._ending = threading.Lock()
        self._own_error = (0, "")
        """Digest of the message, and the error in one line."""
        self._thread = threading.Thread(target=self._wait_for_word, name="rank watch", daemon=True)
        self._thread.start()
        self._beats = heartbeats.Heartbeats(self._group, self._end_for_silence)

    def wait_for_all(self) -> None:
        """Wait until all ranks have called this, for as long as they live."""
        dist.barrier(group=self._group)

    def ranks_that_did_not_come(self) -> list[str]:
        """Return the names of the ranks that did not wait, as this one did, in a collective that has failed."""
        try:
            self._store.set(f"{WAITED_IN_VAIN}/{self._rank}", "")
            time.sleep(SECONDS_TO_COME_LATE)
            ranks = range(self._world_size)
            return [self.name(rank) for rank in ranks if not self._store.check([f"{WAITED_IN_VAIN}/{rank}"])]
        except dist.DistError:
            return []  # the process that keeps the store has ended

    def dismiss(self) -> None:
        """Say goodbye and wait for that of the rank before. All ranks must have done their work."""
        self._tell_next(GOODBYE)
        self._thread.join()
        self._beats.finish()

    def name(self, rank: int) -> str:
        """Return the words for a rank in messages: with its machine, if there are several machines."""
        return f"rank {rank}" if len(set(self._machines)) == 1 else f"rank {rank} on {self._machines[rank]}"

    def end(self, error: BaseException, heading: str, message: str, status: int) -> NoReturn:
        """End this process, and so all others. Of all ranks that fail, the first prints its message.

        Nothing of the process group is destroyed, because that can wait for the other ranks without end.

        Args:
            error: the error. If it comes from a collective, another rank has probably ended, and its message counts.
            heading, message: what is printed, one after the other. The message does not name this rank.
            status: the exit status.
        """
        if threading.current_thread() is threading.main_thread():  # no other thread may set it
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the status is decided, and the end is near
        # In each of these waits the watch ends this process if the word comes that another rank has ended.
        if _comes_from_a_collective(error):
            time.sleep(WAIT_FOR_WORD_SECONDS)
        self._own_error = (_digest(message), f"{type(error).__name__}: {error}".splitlines()[0])
        if self._rank > 0:
            time.sleep(SECONDS_BEFORE_OTHER_RANKS_REPORT)
        if not self._is_first():
            time.sleep(WAIT_FOR_WORD_SECONDS)
        with self._ending:
            tell_torchrun(f"its message is above ({heading.removesuffix(': ')})" if heading else message)
            _print_last(heading + message)
            time.sleep(LINGER_SECONDS)
            self._tell_next(self._rank, _digest(message))
            os._exit(status)

    def _is_first(self) -> bool:
        """Return whether no other rank has failed before this call."""
        try:
            return self._store.compare_set(FIRST_FAILURE, "", str(self._rank)).decode() == str(self._rank)
        except dist.DistError:
            return False  # the process that keeps the store has ended

    def _wait_for_word(self) -> None:
        before, word = (self._rank - 1) % self._world_size, torch.zeros(2, dtype=torch.long)
        try:
            dist.recv(word, src=before, group=self._group)
            failed, digest = word.tolist()
        except RuntimeError:  # gloo has no other error: the connection was closed
            failed, digest = before, KILLED
        if failed != GOODBYE:
            self._end_for(failed, digest)

    def _end_for_silence(self) -> None:
        self._end_for((self._rank - 1) % self._world_size, SILENT)

    def _end_for(self, failed: int, digest: int) -> NoReturn:
        """End this process because another rank has failed, been killed or been stopped; tell the next rank first."""
        with self._ending:
            self._tell_next(failed, digest)
            why = f"{self.name(failed)} failed; its message says why"
            if digest == KILLED:
                why = f"{self.name(failed)} ended without a word; perhaps it was killed because memory ran out"
            elif digest == SILENT:
                why = self._words_for_silence(failed)
            own_digest, own_error = self._own_error
            if own_error and own_digest != digest:
                why += f"\nrank {self._rank} had an error of its own: {own_error}"
            tell_torchrun(f"rank {self._rank} ended because {why}", SECONDS_AFTER_THE_FIRST)
            _print_last(f"rank {self._rank} ends: {why}")
            time.sleep(STEP_BACK_SECONDS)
            os._exit(FAILED)

    def _words_for_silence(self, silent: int) -> str:
        seconds = f"{heartbeats.SILENCE_SECONDS:g} s"
        if silent == self._rank:
            return f"it was stopped for more than {seconds}, and the other ranks have ended"
        return (
            f"rank {silent} on {self._machines[silent]} has given no sign of life for {seconds}; it was stopped, or "
            "its machine or its network is down"
        )

    def _tell_next(self, failed: int, digest: int = 0) -> None:
        """Tell the next rank which rank has failed, with the digest of its message; or say goodbye."""
        word, following = torch.tensor([failed, digest]), (self._rank + 1) % self._world_size
        try:
            sent = dist.isend(word, dst=following, group=self._group)
            # A rank that has heard goodbye does not listen any more.
            sent.wait(FOREVER if failed == GOODBYE else TIME_TO_TELL)
        except RuntimeError:
            if failed == GOODBYE:
                raise
            # Otherwise the next rank has ended already.


def end_process(message: str, status: int) -> NoReturn:
    """Print a message and end this process at once, whatever its threads and libraries wait for."""
    _print_last(message)
    os._exit(status)


def _print_last(message: str) -> None:
    try:
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)
    except OSError:  # a full disk, for example; nobody can be told
        pass


def _digest(message: str) -> int:
    return 1 + int.from_bytes(hashlib.sha256(message.encode(errors="backslashreplace")).digest()[:7], "big")


def _comes_from_a_collective(error: BaseException) -> bool:
    """Return whether an error was raised inside torch.distributed, as gloo's are if a connection is closed."""
    names = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(name.startswith("torch.distributed") for name in names)
