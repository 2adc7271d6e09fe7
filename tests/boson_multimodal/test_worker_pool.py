"""Work in several processes: in order, with few items in memory, and no process outlives the one that began it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boson_multimodal.worker_pool import WorkerPool
from tests.training_runs import PROJECT

PARENT = """
import os, sys, time
from boson_multimodal.worker_pool import WorkerPool

if __name__ == "__main__":
    with WorkerPool(2) as pool:
        workers = set(pool.stream(os.path.abspath, ["a", "b", "c"]))
        print(*pool._pool._processes, flush=True)
        time.sleep(60)
"""


def test_one_process_takes_an_item_when_its_result_is_wanted() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    with WorkerPool(1) as pool:
        found = pool.stream(lambda number: number + 1, items())
        assert next(found) == 1 and len(taken) <= 2
        assert list(found) == [2, 3, 4, 5]
        assert list(pool.stream(str, [])) == []


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(Path(f"/proc/{worker}").exists() for worker in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 30
    while time.monotonic() < until and any(map(is_running, workers)):
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def is_running(process: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
