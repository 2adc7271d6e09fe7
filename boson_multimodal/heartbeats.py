"""Notices a rank that is stopped, or whose machine or network is gone, by its heartbeats.

Each rank asks the rank before it for a beat, once a second, over the connections of the watch (``rank_watch.py``):

    rank 0 <-ask-- rank 1 <-ask-- rank 2 <-ask-- rank 0

A rank that works must beat whatever it does: Python code, a blocked write, or C code that holds Python's lock for
minutes. So no Python code answers. A thread of the rank keeps hundreds of sends in hand, and gloo's own thread gives
one out whenever the next rank asks for it. A process that is stopped (SIGSTOP) has no running thread and gives nothing.

The rank that asks measures the silence in ticks of a thread of its own, not by the clock. If it was stopped itself,
or could not run, no ticks are counted, and it accuses nobody.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import distributed as dist

SILENCE_SECONDS = 30.0
"""A rank that gives no beat for so long ends all others."""
TICKS = 30
"""The silence is measured in so many ticks."""
BEATS_AHEAD = 512
"""Beats that gloo can give without the help of Python: for eight minutes."""
BEATS, END = 1, 2
"""The tags of the messages. They keep beats apart from the words of the watch."""


class Heartbeats:
    """The beats of this rank for the next one, and those of the rank before.

    Args:
        group: a gloo group without a time limit. All ranks must make their beats at the same time.
        end_for_silence: called, in a thread, if the rank before has given no beat for ``SILENCE_SECONDS``.
    """

    def __init__(self, group: dist.ProcessGroup, end_for_silence: Callable[[], None]) -> None:
        self._group = group
        self._end_for_silence = end_for_silence
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        self._beat = torch.zeros(1)
        self._seconds_of_a_tick = SILENCE_SECONDS / TICKS
        self._ticks_of_silence = 0
        self._in_hand: deque[dist.Work] = deque()
        """Kept until the connections are closed: gloo hangs if the next rank asks for a beat that was just dropped."""
        self._work_is_done, self._has_ended = threading.Event(), threading.Event()
        work = {"beats": self._give, "beats of others": self._take, "silence of others": self._measure_silence}
        self._threads = [threading.Thread(target=do, name=name, daemon=True) for name, do in work.items()]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Say that no more beats are needed, and wait until the neighbours say so. All must have done their work."""
        self._work_is_done.set()
        with suppress(RuntimeError):  # the next rank has ended, which its own next rank tells
            self._send(END).wait()
        for thread in self._threads:
            thread.join()

    def _give(self) -> None:
        try:
            self._in_hand.extend(self._send(BEATS) for _ in range(BEATS_AHEAD))
            while not self._work_is_done.is_set():
                self._in_hand[0].wait()
                self._in_hand.popleft()
                self._in_hand.append(self._send(BEATS))
        except RuntimeError:  # gloo has no other error: the next rank has ended, which its own next rank tells
            return

    def _take(self) -> None:
        try:
            while not self._work_is_done.is_set():
                self._receive(BEATS)
                self._work_is_done.wait(self._seconds_of_a_tick)
            self._receive(END)
            self._receive(BEATS)  # the rank before gives no more after this one, for which it may have waited
        except RuntimeError:  # the rank before has ended, which the watch notices
            pass
        self._has_ended.set()

    def _measure_silence(self) -> None:
        while not self._has_ended.wait(self._seconds_of_a_tick):
            self._ticks_of_silence += 1
            if self._ticks_of_silence > TICKS:
                self._end_for_silence()

    def _send(self, tag: int) -> dist.Work:
        return dist.isend(self._beat, dst=(self._rank + 1) % self._world_size, group=self._group, tag=tag)

    def _receive(self, tag: int) -> None:
        dist.recv(torch.zeros(1), src=(self._rank - 1) % self._world_size, group=self._group, tag=tag)
        self._ticks_of_silence = 0
