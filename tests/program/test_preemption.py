"""SIGTERM to one process, to all, or to torchrun: one checkpoint is saved, and all end with the documented status."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training_runs import ENVIRONMENT, PROGRAM, command, flags, metrics
from tests.two_nodes import end_of_all, free_port

pytestmark = pytest.mark.slow

STATUS = 128 + signal.SIGTERM


def start_processes(words: list[str], log: Path) -> list[subprocess.Popen[bytes]]:
    """Start two processes without a launcher, so that each one's exit status can be seen."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [ENVIRONMENT | address | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    with log.open("ab") as file:
        return [
            subprocess.Popen(words, stdout=file, stderr=file, env=environment, start_new_session=True)
            for environment in ranks
        ]


def wait_for_steps(out: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    while not ((out / "metrics.jsonl").exists() and len(metrics(out)) >= 2):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def check_saved_once(out: Path, log: Path) -> None:
    printed = log.read_text()
    (step,) = re.findall(r"stopped at step (\d+) of 5000; run the same command again", printed)
    assert [path.name for path in out.glob("checkpoint-*")] == [f"checkpoint-{int(step):06d}"]
    assert not list(out.glob(".writing-*"))
    assert f'File "{PROGRAM}"' not in printed and "error on rank" not in printed, "torchrun prints a trace of its own"


@pytest.mark.parametrize("ranks", [(0,), (1,), (0, 1)], ids=str)
def test_sigterm_to_processes(ranks: tuple[int, ...], demo: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    settings = {"max_steps": 5000, "logging_steps": 1, "save_steps": 5000, "eval_data_path": None}
    processes = start_processes([sys.executable, str(PROGRAM), *flags(demo, out, **settings)], log)
    wait_for_steps(out, processes)
    for rank in ranks:
        processes[rank].send_signal(signal.SIGTERM)
    assert end_of_all(processes, 120) == [STATUS, STATUS], log.read_text()
    check_saved_once(out, log)


def test_sigterm_to_torchrun(demo: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    settings = {"max_steps": 5000, "logging_steps": 1, "save_steps": 5000, "eval_data_path": None}
    with log.open("ab") as file:
        words = command(flags(demo, out, **settings), 2)
        launcher = subprocess.Popen(words, stdout=file, stderr=file, env=ENVIRONMENT, start_new_session=True)
    wait_for_steps(out, [launcher])
    os.kill(launcher.pid, signal.SIGTERM)
    assert end_of_all([launcher], 120) == [1], log.read_text()
    check_saved_once(out, log)
