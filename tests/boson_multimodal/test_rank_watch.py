"""When one process of a group fails, all end soon, and one message says why. No launcher stops them here.

All cases run at once, in processes that are forked from one that has imported torch.
"""

import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from boson_multimodal import heartbeats, process_group
from boson_multimodal.command_line import run_command
from boson_multimodal.errors import InputError, NamedError
from boson_multimodal.process_group import Ranks
from tests.null_cuda import PROJECT, needs_null_cuda, run_null_cuda
from tests.two_nodes import free_port

LIMIT_SECONDS = 30.0
MESSAGE = "clip 7 is broken"


def hide_in_a_thread() -> None:
    """A thread that is no daemon would keep the interpreter alive."""
    threading.Thread(target=time.sleep, args=(1000,)).start()
    raise InputError(MESSAGE)


def fail_while_saving(ranks: Ranks) -> None:
    with ranks.failing_together():
        if ranks.is_main:
            raise InputError(MESSAGE)


def fail_in_a_collective() -> None:
    torch.distributed.all_reduce("this is no tensor")


def stop_for(seconds: float) -> None:
    """Stop this process as a debugger or a scheduler does. Another process wakes it up."""
    subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


def compute_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def write_for(seconds: float) -> None:
    """Write more than a pipe holds, as to a disk that stalls."""
    reader, writer = os.pipe()
    threading.Timer(seconds, os.read, (reader, 1 << 20)).start()
    os.write(writer, bytes(1 << 17))


def hold_the_lock_for(seconds: float) -> None:
    """C code that does not give Python's lock back: no other thread of Python runs."""
    ctypes.PyDLL(None).sleep(int(seconds))


def raise_it(error: BaseException) -> None:
    raise error


FAILURES: dict[str, Callable[[Ranks], None]] = {
    "InputError": lambda ranks: raise_it(InputError(MESSAGE)),
    "NamedError": lambda ranks: raise_it(NamedError(MESSAGE)),
    "OutOfMemoryError": lambda ranks: raise_it(torch.OutOfMemoryError(MESSAGE)),
    "AssertionError": lambda ranks: raise_it(AssertionError(MESSAGE)),
    "KeyboardInterrupt": lambda ranks: raise_it(KeyboardInterrupt()),
    "SystemExit": lambda ranks: sys.exit(MESSAGE),
    "a thread that goes on": lambda ranks: hide_in_a_thread(),
    "while rank 0 saves": fail_while_saving,
    "a defect in a collective": lambda ranks: fail_in_a_collective(),
    "another error on each rank": lambda ranks: raise_it(InputError(f"rank {ranks.rank} is unwell")),
    "os._exit": lambda ranks: os._exit(5),
    "SIGKILL": lambda ranks: os.kill(os.getpid(), signal.SIGKILL),
    "none": lambda ranks: time.sleep(2 * ranks.rank),
    "late": lambda ranks: ranks.rank == 1 and time.sleep(600),
    "stopped": lambda ranks: stop_for(2 * heartbeats.SILENCE_SECONDS),
}
BUSY: dict[str, Callable[[float], None]] = {
    "Python code": compute_for,
    "a blocked write": write_for,
    "C code that holds the lock": hold_the_lock_for,
}
"""What a healthy rank may do for three times the silence that ends a rank which is not healthy."""
FAILURES |= {
    name: lambda ranks, do=do: ranks.rank == 1 and do(3 * heartbeats.SILENCE_SECONDS) for name, do in BUSY.items()
}


@dataclass(frozen=True)
class Case:
    """Which ranks of three fail, and how. Of the others, the first waits in a collective and the last works on."""

    failure: str
    ranks: tuple[int, ...]
    message: str = MESSAGE
    statuses: tuple[int, ...] = (1, 1, 1)
    silence: float = 30.0
    minutes: float = 10.0
    are_patient: bool = False
    """Whether the ranks wait without a time limit before the last collective."""

    def __str__(self) -> str:
        return f"{self.failure} on {', '.join(map(str, self.ranks))}"


EVERY_RANK = (0, 1, 2)
CASES = [
    Case("InputError", (0,)),
    Case("InputError", (2,)),
    Case("InputError", EVERY_RANK),
    Case("NamedError", (1,)),
    Case("OutOfMemoryError", (2,)),
    Case("AssertionError", (1,)),
    Case("AssertionError", EVERY_RANK),
    Case("KeyboardInterrupt", (1,), "all is well", (1, 130, 1)),
    Case("SystemExit", (0,)),
    Case("a thread that goes on", (0,)),
    Case("while rank 0 saves", EVERY_RANK),
    Case("another error on each rank", (0, 1), "error on rank 0: rank 0 is unwell"),
]
KILLS = [
    Case("os._exit", (2,), "", (1, 1, 5)),
    Case("SIGKILL", (0,), "", (-signal.SIGKILL, 1, 1)),
]
DEFECT = Case("a defect in a collective", (1,), "error on rank 1: Traceback")
FINISHED = Case("none", EVERY_RANK, "", (0, 0, 0))
SHORT_SILENCE = 5.0
STOPPED = [Case("stopped", (rank,), silence=SHORT_SILENCE) for rank in (0, 1)]
SHORT_MINUTES = 3 / 60
WORKING = [Case(name, EVERY_RANK, "", (0, 0, 0), SHORT_SILENCE, SHORT_MINUTES, are_patient=True) for name in BUSY]
LATE = Case("late", EVERY_RANK, "rank 1 did not come to where the others wait", minutes=SHORT_MINUTES)


def one_rank(case: Case, port: int, rank: int, folder: Path) -> None:
    """What a process of a case does."""
    with (folder / f"{rank}.log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    heartbeats.SILENCE_SECONDS = case.silence

    def work() -> int:
        ranks = Ranks.join(case.minutes)
        ranks.sum(torch.ones(1))
        (folder / f"{rank}.began").touch()
        if rank in case.ranks:
            FAILURES[case.failure](ranks)
        elif rank == max({0, 1, 2} - set(case.ranks)):
            time.sleep(600)
        if case.are_patient:
            ranks.gather(None)
        if case is not FINISHED:
            ranks.sum(torch.ones(1))
        return 0

    os._exit(run_command(work, "interrupted; all is well"))


@dataclass
class Ended:
    """How the three processes of a case ended."""

    statuses: list[int | None]
    seconds: float
    logs: list[str]
    seconds_to_last_words: list[float]
    """From the beginning to the last line of each process."""


def wait_for(processes: list[BaseProcess], folder: Path, limit: float = LIMIT_SECONDS + 5) -> Ended:
    """Wait until the processes end, but not much longer than they may take."""
    while not all((folder / f"{rank}.began").exists() or not p.is_alive() for rank, p in enumerate(processes)):
        time.sleep(0.01)
    deadline = time.time() + limit
    for process in processes:
        process.join(max(0.0, deadline - time.time()))
    began = max((path.stat().st_mtime for path in folder.glob("*.began")), default=0.0)
    statuses, seconds = [p.exitcode for p in processes], time.time() - began
    for process in processes:
        process.kill()
    logs = [folder / f"{rank}.log" for rank in range(3)]
    return Ended(statuses, seconds, [p.read_text() for p in logs], [p.stat().st_mtime - began for p in logs])


def run_at_once(cases: list[Case], folder: Path, limit: float = LIMIT_SECONDS + 5) -> dict[str, Ended]:
    """Return how each case ended, by its name."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["boson_multimodal.process_group", __name__])
    started = {}
    for case in cases:
        own, port = folder / str(case), free_port()
        own.mkdir()
        processes = [context.Process(target=one_rank, args=(case, port, rank, own)) for rank in range(3)]
        for process in processes:
            process.start()
        started[str(case)] = processes, own
    return {name: wait_for(*of_case, limit) for name, of_case in started.items()}


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """How each case ended, by its name."""
    return run_at_once([*CASES, *KILLS, FINISHED, *STOPPED, *WORKING, LATE], tmp_path_factory.mktemp("cases"))


def check(case: Case, ended: Ended) -> None:
    """Check that all ended in time, that one said why, and that the others named it."""
    assert tuple(ended.statuses) == case.statuses, ended.logs
    assert ended.seconds < LIMIT_SECONDS
    assert "".join(ended.logs).count(case.message) == 1
    (speaker,) = (rank for rank, log in enumerate(ended.logs) if case.message in log)
    others = [log for rank, log in enumerate(ended.logs) if rank != speaker]
    assert speaker in case.ranks and all("Traceback" not in log for log in others)
    for rank in {0, 1, 2} - {speaker}:
        assert f"rank {rank} ends: rank {speaker} failed; its message says why\n" in ended.logs[rank]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_failure_ends_all_with_one_message(case: Case, endings: dict[str, Ended]) -> None:
    check(case, endings[str(case)])


@pytest.mark.slow
def test_an_error_of_a_collective_is_reported_if_no_other_rank_has_failed(tmp_path: Path) -> None:
    check(DEFECT, run_at_once([DEFECT], tmp_path)[str(DEFECT)])


@pytest.mark.parametrize("case", KILLS, ids=str)
def test_a_killed_rank_is_named_by_the_others(case: Case, endings: dict[str, Ended]) -> None:
    ended, (killed,) = endings[str(case)], case.ranks
    assert tuple(ended.statuses) == case.statuses, ended.logs
    assert ended.seconds < LIMIT_SECONDS
    for rank in {0, 1, 2} - {killed}:
        said = f"rank {rank} ends: rank {killed} ended without a word; perhaps it was killed because memory ran out\n"
        assert ended.logs[rank] == said


def check_stopped(case: Case, ended: Ended) -> None:
    """Check that the others ended soon after the silence, naming rank and machine, and the stopped one on waking."""
    (stopped,) = case.ranks
    assert tuple(ended.statuses) == case.statuses, ended.logs
    for rank in {0, 1, 2} - {stopped}:
        said = f"rank {stopped} on {socket.gethostname()} has given no sign of life for {case.silence:g} s; "
        assert ended.logs[rank].startswith(f"rank {rank} ends: {said}") and ended.logs[rank].count("\n") == 1
        assert case.silence - 1 < ended.seconds_to_last_words[rank] < case.silence + 5
    assert ended.logs[stopped].startswith(f"rank {stopped} ends: it was stopped for more than {case.silence:g} s")


@pytest.mark.parametrize("case", STOPPED, ids=str)
def test_a_stopped_rank_ends_the_others_and_itself_when_it_wakes(case: Case, endings: dict[str, Ended]) -> None:
    check_stopped(case, endings[str(case)])


def check_working(case: Case, ended: Ended) -> None:
    assert tuple(ended.statuses) == case.statuses and ended.logs == ["", "", ""]
    assert ended.seconds >= 3 * case.silence - 1


@pytest.mark.parametrize("case", WORKING, ids=str)
def test_a_healthy_rank_may_be_busy_for_longer_than_the_silence(case: Case, endings: dict[str, Ended]) -> None:
    check_working(case, endings[str(case)])


def test_a_rank_that_lives_but_does_not_come_is_named(endings: dict[str, Ended]) -> None:
    """The healthy ranks wait in a collective with a time limit. They do not accuse each other."""
    ended = endings[str(LATE)]
    assert tuple(ended.statuses) == LATE.statuses, ended.logs
    assert "".join(ended.logs).count(LATE.message) == 1 and LATE.message not in ended.logs[1]
    assert "--collective_timeout" in "".join(ended.logs) and "Traceback" not in "".join(ended.logs)
    assert ended.seconds < LIMIT_SECONDS


@pytest.mark.slow
def test_with_the_silence_of_real_runs(tmp_path: Path) -> None:
    """A rank is stopped for 60 s; others are busy for 90 s."""
    stopped, working = replace(STOPPED[1], silence=30.0), [replace(case, silence=30.0) for case in WORKING]
    assert stopped.silence == heartbeats.SILENCE_SECONDS
    endings = run_at_once([stopped, *working], tmp_path, limit=120)
    check_stopped(stopped, endings[str(stopped)])
    for case in working:
        check_working(case, endings[str(case)])


def test_an_error_has_a_traceback_if_it_has_no_name(endings: dict[str, Ended]) -> None:
    for name, has_one in (("AssertionError on 1", True), ("NamedError on 1", False), ("InputError on 0", False)):
        assert ("Traceback" in "".join(endings[name].logs)) == has_one, name


def test_another_error_of_a_rank_that_was_not_first_is_mentioned(endings: dict[str, Ended]) -> None:
    assert "rank 1 had an error of its own: InputError: rank 1 is unwell\n" in "".join(
        endings["another error on each rank on 0, 1"].logs
    )
    assert "of its own" not in "".join(endings["InputError on 0, 1, 2"].logs)


def test_a_rank_may_work_longer_than_the_others(endings: dict[str, Ended]) -> None:
    ended = endings[str(FINISHED)]
    assert ended.statuses == [0, 0, 0] and ended.logs == ["", "", ""]
    assert ended.seconds >= 3


# -- joining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"RANK": None, "MASTER_ADDR": None}, ["RANK is missing; it must be a number", "MASTER_ADDR is missing"]),
        ({"LOCAL_RANK": "one"}, ["LOCAL_RANK is one; it must be a number"]),
        ({"RANK": "2"}, ["RANK is 2; it must be less than WORLD_SIZE, 2"]),
        ({"WORLD_SIZE": "", "MASTER_PORT": "x"}, ["WORLD_SIZE is ; it must be a number", "MASTER_PORT is x"]),
    ],
)
def test_wrong_variables_of_a_launcher(
    changes: dict[str, str | None], problems: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (right | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        Ranks.join()
    assert f"variables of the environment ({len(problems)})" in str(caught.value)
    assert all(problem in str(caught.value) for problem in problems)


def test_processes_that_never_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "JOIN_TIMEOUT", process_group.timedelta(seconds=1))
    port = free_port()
    here = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NamedError, match=f"the 2 processes have not met at 127.0.0.1:{port}"):
        Ranks.join()


# -- NCCL ------------------------------------------------------------------------------------------------------------

NCCL_SCRIPT = f"""
import os, sys, time
sys.path.insert(0, {str(PROJECT)!r})
import torch
from boson_multimodal.command_line import run_command
from boson_multimodal.process_group import Ranks
def work():
    ranks = Ranks.join()
    torch.cuda.set_device(ranks.local_rank)
    ranks.sum(torch.ones(1, device="cuda"))
    assert torch.distributed.get_backend_config() == "cpu:gloo,cuda:nccl"
    if ranks.rank == int(sys.argv[1]):
        print("failed at", time.time(), file=sys.stderr)
        raise torch.OutOfMemoryError("{MESSAGE}")
    if sys.argv[1] == "-1":
        return 0
    time.sleep(600)  # as the host waits for a device that waits for the other rank
os._exit(run_command(work))
"""


def run_beside_nccl(folder: Path, failing: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run two processes with NCCL. The null CUDA prints a line when a communicator is destroyed."""
    script = folder / "script.py"
    script.write_text(NCCL_SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    settings = {"NULLCUDA_DEVICES": "2", "OMP_NUM_THREADS": "1", **variables}
    return run_null_cuda(*launcher, str(script), str(failing), timeout=120, **settings)


@needs_null_cuda
@pytest.mark.parametrize("failing", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_beside_nccl_ends_all(failing: int, tmp_path: Path) -> None:
    """NCCL's communicator cannot be destroyed after an error; here that would block without end."""
    result = run_beside_nccl(tmp_path, failing, NULLCUDA_FINALIZE_BLOCKS="1")
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("failed at "))
    assert time.time() - float(line.removeprefix("failed at ")) < LIMIT_SECONDS
    assert result.returncode != 0 and result.stderr.count(MESSAGE) == 1
    assert f"error on rank {failing}: out of GPU memory ({MESSAGE})" in result.stderr
    assert "ncclCommFinalize" not in result.stderr


@pytest.mark.slow
@needs_null_cuda
def test_after_the_work_nccl_is_destroyed_on_all_ranks(tmp_path: Path) -> None:
    result = run_beside_nccl(tmp_path, -1)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("ncclCommFinalize") == 2
