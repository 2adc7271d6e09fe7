"""A run of two ranks on each of two "nodes": folders of their own on this machine, and one torchrun for each."""

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.training_runs import ENVIRONMENT, PROGRAM, flags

RANKS_OF_A_NODE = 2


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@dataclass
class Nodes:
    """Two nodes with their own copies of data, model and codec. Only the first may have the folder of the run.

    Attributes:
        folders: of the two nodes; each has ``demo``, ``code_cache`` and ``log``.
    """

    folders: list[Path]

    @classmethod
    def make(cls, demo: Path, folder: Path) -> "Nodes":
        folders = [folder / f"node{node}" for node in range(2)]
        for own in folders:
            shutil.copytree(demo, own / "demo")
        return cls(folders)

    @property
    def out(self) -> Path:
        return self.folders[0] / "out"

    def words(self, node: int, port: int, script: Path, launcher: list[str], **settings: Any) -> list[str]:
        """Return the command of a node. The folders are named in each node's own way."""
        own = self.folders[node]
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={node}"]
        launch += [f"--nproc_per_node={RANKS_OF_A_NODE}", "--master_addr=127.0.0.1", f"--master_port={port}", *launcher]
        return [*launch, str(script), *flags(own / "demo", own / "out", code_cache_dir=own / "code_cache", **settings)]

    def start(
        self, scripts: list[Path] | None = None, launcher: list[str] | None = None, **settings: Any
    ) -> list[subprocess.Popen[bytes]]:
        """Start both nodes. ``scripts`` are the programs of the two, ``launcher`` further words for torchrun."""
        port, processes = free_port(), []
        for node, own in enumerate(self.folders):
            script = PROGRAM if scripts is None else scripts[node]
            with (own / "log").open("ab") as log:
                words = self.words(node, port, script, launcher or [], **settings)
                processes.append(
                    subprocess.Popen(words, stdout=log, stderr=log, env=ENVIRONMENT, cwd=own, start_new_session=True)
                )
        return processes

    def log(self, node: int) -> str:
        return (self.folders[node] / "log").read_text(errors="replace")

    def logs(self) -> str:
        return self.log(0) + self.log(1)


def end_of_all(processes: list[subprocess.Popen[bytes]], seconds: float) -> list[int]:
    """Return the exit statuses of launchers that end in time; kill what is left."""
    deadline = time.monotonic() + seconds
    try:
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, 9)
