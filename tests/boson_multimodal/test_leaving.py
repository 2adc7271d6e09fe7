"""Processes leave their group together, also while they ask each other for beats without a pause."""

import multiprocessing
import time
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed as dist

from boson_multimodal import heartbeats, process_group
from boson_multimodal.rank_watch import RankWatch

GROUPS, LIMIT_SECONDS = 12, 60.0


def leave(rank: int, store: Path) -> None:
    """Join a group of two, and leave it in the middle of the beats."""
    joined = dist.FileStore(str(store), 2)
    dist.init_process_group("gloo", store=joined, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    process_group._watch = RankWatch(joined)
    process_group.leave_process_group()


def test_processes_leave_while_beats_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half of such groups both hung for ever while the beats in hand were dropped at the end."""
    monkeypatch.setattr(heartbeats, "TICKS", 10**9)  # so many a second that there is no pause, and no silence
    forked = multiprocessing.get_context("fork")
    ranks = [
        forked.Process(target=leave, args=(rank, tmp_path / f"store-{number}"), daemon=True)
        for number in range(GROUPS)
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    try:
        deadline = time.monotonic() + LIMIT_SECONDS
        for process in ranks:
            process.join(max(0.0, deadline - time.monotonic()))
        assert [process.exitcode for process in ranks] == [0] * len(ranks)
    finally:
        for process in ranks:
            process.kill()
