"""Runs that were interrupted, and ways in which the disk or somebody damages a file of a run's folder."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from tests.training_runs import trainer

SETTINGS: dict[str, Any] = {
    "max_steps": 6,
    "save_steps": 2,
    "eval_steps": 4,
    "logging_steps": 1,
    "report_to": "tensorboard",
    "lora_rank": 4,
    "lora_targets": ["heads"],
}


class Crash(Exception):
    """Simulates a process that dies."""


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


def _nul_bytes(path: Path) -> None:
    """What a file system may leave after a power cut: the length without the content."""
    path.write_bytes(bytes(path.stat().st_size))


def _missing(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _folder(path: Path) -> None:
    _missing(path)
    path.mkdir()


def _broken_link(path: Path) -> None:
    _missing(path)
    path.symlink_to(path.parent / "nowhere")


def _link_to_itself(path: Path) -> None:
    _missing(path)
    path.symlink_to(path.name)


def _file(path: Path) -> None:
    _missing(path)
    path.write_text("a file")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": _empty,
    "cut": _cut,
    "garbage": _garbage,
    "NUL bytes": _nul_bytes,
    "missing": _missing,
    "a folder": _folder,
    "a broken link": _broken_link,
    "a link to itself": _link_to_itself,
}
FOLDER_DAMAGES = {"missing": _missing, "a file": _file, "an empty folder": _folder, "a broken link": _broken_link}


@dataclass(frozen=True)
class Runs:
    """Two runs of the same command.

    Attributes:
        whole: the folder of the run that nothing interrupted.
        interrupted: the folder of a run that died after step 5. It has checkpoints of steps 2 and 4.
        last: the trainer that wrote ``interrupted``.
    """

    whole: Path
    interrupted: Path
    last: ArabicVoiceCloningDistributedTrainer


def make_runs(demo: Path, folder: Path) -> Runs:
    """Train both runs."""
    trainer(demo, folder / "whole", **SETTINGS).train()
    subject = trainer(demo, folder / "interrupted", **SETTINGS)
    after_step = subject._after_step

    def dying(*args: object) -> None:
        if subject.components.state.step == 5:
            raise Crash
        after_step(*args)

    subject._after_step = dying
    with pytest.raises(Crash):
        subject.train()
    return Runs(folder / "whole", folder / "interrupted", subject)


def files_of(run: Path, newest: str = "checkpoint-000004") -> list[str]:
    """Return the relative names of all files of a run, with those of only one checkpoint."""
    found = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file()]
    plots = [str(path) for path in found if path.parts[0] == "tensorboard"]
    return [str(path) for path in found if path.parts[0] in (newest, path.name)] + plots[:1]
