"""Runs of the program that a test kills, in one process or several.

    python -m tests.killed_runs

imports the program once, and then starts it as often as it is asked to, each time in a forked process, which saves the
seconds of the imports. It has done nothing before, so a forked process is like a new one. A request is a line of JSON.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.forked import fork
from tests.training_runs import ENVIRONMENT, PROJECT, assert_same_adapter, flags, metrics
from voice_cloning.training.checkpoints import CHECKSUMS, read_state

SYNC_SECONDS = 0.02
"""Each file of a checkpoint takes so long to reach the disk, so that steps are taken while it is written."""
STEPS = 24
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS,
    "max_tokens_per_batch": 512,
    "logging_steps": 5,
    "eval_steps": 3,
    "save_steps": 4,
    "save_total_limit": 2,
    "lora_targets": ["attention", "audio_mlp", "text_mlp", "heads"],
}


# -- starting -------------------------------------------------------------------------------------------------------


class Starter:
    """Starts the program in forked processes; a context manager that ends them."""

    def __enter__(self) -> "Starter":
        words = [sys.executable, "-m", "tests.killed_runs"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(words, env=ENVIRONMENT, cwd=PROJECT, **pipes)
        self._process.stdout.readline()  # the program is imported
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(60)

    def start(self, arguments: list[str], variables: dict[str, str], log: Path) -> int:
        """Start the program with its output in a file. Return the id of its process."""
        return self._ask({"arguments": arguments, "variables": variables, "log": str(log)})

    def status(self, process: int) -> int | None:
        """Return the exit status of a process, -N if signal N killed it; None while it runs."""
        return self._ask({"process": process})

    def _ask(self, request: dict[str, Any]) -> Any:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def serve() -> None:
    """Answer the requests of a :class:`Starter` until it closes the pipe."""
    import arabic_voice_cloning_distributed_trainer  # noqa: F401

    started: dict[int, int | None] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "process" in request:
            process = request["process"]
            if started[process] is None:
                found, status = os.waitpid(process, os.WNOHANG)
                started[process] = os.waitstatus_to_exitcode(status) if found else None
            answer = started[process]
        elif (answer := fork()) == 0:
            _run(request)
        else:
            started[answer] = None
        print(json.dumps(answer), flush=True)
    for process, status in started.items():
        if status is None:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _run(request: dict[str, Any]) -> None:
    """Run the program in this process, and end it."""
    from arabic_voice_cloning_distributed_trainer import main
    from voice_cloning.training import run_directory

    output = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(file, stream)
    os.environ.update(request["variables"])
    sync = run_directory.sync
    run_directory.sync = lambda path: (time.sleep(SYNC_SECONDS), sync(path))
    status = main(request["arguments"])
    sys.stdout.flush()
    os._exit(status)


# -- killing --------------------------------------------------------------------------------------------------------


class KilledRun:
    """A run that the test kills, and the same run without interruption.

    Args:
        starter: starts the processes.
        demo, folder: the data, and a folder for what is written.
        world_size: number of processes.
    """

    def __init__(self, starter: Starter, demo: Path, folder: Path, world_size: int) -> None:
        self._starter = starter
        self._demo = demo
        self._folder = folder
        self._world_size = world_size
        self.out = folder / "killed"
        self.log = folder / "killed.log"
        self.kills = self.kills_of_a_write = self.finished = 0
        self._left: set[Path] = set()
        """What kills of a write have left behind, until the next start removes it."""
        began = time.monotonic()
        assert self._wait(self._start("whole"), lambda: False) == [0] * world_size, self._log_of("whole")
        self.seconds = time.monotonic() - began
        """Duration of the run that ended last without a kill, on a machine that others use too."""

    def kill(self, reached: Callable[[], bool], delay: float, ranks: tuple[int, ...] = (0,)) -> bool:
        """Start the run, and kill some of its ranks ``delay`` seconds after a moment. Return False if it ended before.

        A run that ended before has the right result, and is removed, so that the next one begins anew.
        """
        self.log.unlink(missing_ok=True)
        self._left = self._being_written()
        began, processes = time.monotonic(), self._start("killed")
        if self._wait(processes, reached) is None:
            deadline = time.monotonic() + delay
            if self._wait(processes, lambda: time.monotonic() >= deadline) is None:
                for rank in ranks:
                    os.kill(processes[rank], signal.SIGKILL)
                left = self._wait(processes, lambda: False)
                # A rank that had ended is not killed. The others end, because they miss the one that was killed.
                if any(left[rank] == -signal.SIGKILL for rank in ranks):
                    self.kills += 1
                    self.kills_of_a_write += self.is_writing()
                    return True
        self.seconds = time.monotonic() - began
        self.check_finished()
        return False

    def kill_at_random(self, generator: random.Random) -> bool:
        """Kill the run at a random moment, in one of three cases while a checkpoint is being written."""
        ranks = generator.choice([(0,), (1,), (0, 1)]) if self._world_size > 1 else (0,)
        moment = generator.uniform(0.0, self.seconds)
        if generator.random() < 1 / 3:
            earliest = time.monotonic() + moment / 2
            return self.kill(
                lambda: self.is_writing() and time.monotonic() > earliest, generator.uniform(0, 0.1), ranks
            )
        return self.kill(lambda: True, moment, ranks)

    def is_writing(self) -> bool:
        """Return whether a checkpoint is being written, or was when the run was killed."""
        return bool(self._being_written() - self._left)

    def _being_written(self) -> set[Path]:
        return set(self.out.glob(".writing-checkpoint-*"))

    def says(self, words: bytes) -> bool:
        """Return whether the log holds these words."""
        return self.log.exists() and words in self.log.read_bytes()

    def check_finished(self) -> None:
        """Run the same command to the end. Its weights and losses must be those of the whole run. Remove them."""
        assert self._wait(self._start("killed"), lambda: False) == [0] * self._world_size, self._log_of("killed")
        name = f"checkpoint-{STEPS:06d}"
        ours, theirs = self.out / name, self._folder / "whole" / name
        assert_same_adapter(ours, theirs)
        assert (ours / "optimizer.pt").read_bytes() == (theirs / "optimizer.pt").read_bytes()
        # The checksums are also those of run.json, which holds the name of the folder.
        assert {**read_state(ours), CHECKSUMS: None} == {**read_state(theirs), CHECKSUMS: None}
        assert metrics(self.out) == metrics(self._folder / "whole")
        assert not list(self.out.glob(".writing-*"))
        self.finished += 1
        shutil.rmtree(self.out)

    def _start(self, name: str) -> list[int]:
        """Start the processes of a run."""
        arguments = flags(self._demo, self._folder / name, code_cache_dir=self._folder / f"cache-{name}", **SETTINGS)
        variables: dict[str, str] = {}
        if self._world_size > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(self._world_size)}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if variables else {} for rank in range(self._world_size)]
        log = self._folder / f"{name}.log"
        return [self._starter.start(arguments, {**variables, **rank}, log) for rank in ranks]

    def _wait(self, processes: list[int], reached: Callable[[], bool], timeout: float = 300) -> list[int] | None:
        """Wait until a moment is reached, and return None; or until all processes have ended: return their statuses."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            statuses = [self._starter.status(process) for process in processes]
            if None not in statuses:
                return statuses
            if reached():
                return None
            time.sleep(0.005)
        raise TimeoutError(f"neither happened within {timeout} s")

    def _log_of(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")


if __name__ == "__main__":
    serve()
