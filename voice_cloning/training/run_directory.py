"""The output folder of a run: its files, and the check that a run resumes only its own checkpoints.

    run.json                     resolved flags, data fingerprints, versions, commit
    metrics.jsonl                one line per logged step and per evaluation
    tensorboard/                 the same numbers as plots
    checkpoint-000120/           adapter_model.safetensors, adapter_config.json, README.md (its card), run.json,
                                 trainer_state.json, optimizer.pt

A checkpoint is written under a temporary name and then renamed, so a folder with the name above is complete.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.whole_files import TEMPORARY_PREFIX, sync, write_whole
from voice_cloning import __version__

RUN_FILE = "run.json"
STATE_FILE = "trainer_state.json"
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
LOCK_FILE = ".lock"
CHECKPOINT_PREFIX = "checkpoint-"
RECORDED_PACKAGES = ("torch", "transformers", "peft", "accelerate", "torchaudio", "soundfile", "numpy")


class RunDirectory:
    """The output folder of one run, as its main process sees it.

    Args:
        folder: created if it does not exist.
        identity: nested names and values that determine the result. Two runs with equal identity are the same run.
        details: the rest of ``run.json``.
        flags_before: for each flag, the value that describes releases without the flag. A run that does not record
            a flag has this value.

    Raises:
        InputError: if the folder cannot be created, or another process is using it.
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], details: dict[str, Any], flags_before: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.details = details
        self._flags_before = flags_before
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / LOCK_FILE)
        except OSError as error:
            raise InputError(f"--output_dir {folder}: cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Unlock the folder, so that another process can use it."""
        self._lock.close()

    def open(self, resume: str, overwrite: bool) -> Path | None:
        """Find the checkpoint to resume from, and write ``run.json``. If this fails, the folder is closed.

        Args:
            resume: ``auto`` (resume from the newest checkpoint of the same run), ``none``, or a checkpoint's folder.
            overwrite: first remove the files of any run in the folder.

        Returns:
            The checkpoint to resume from, or None to begin at step 0.

        Raises:
            InputError: if the folder holds another run (it names each difference), or if ``resume`` is no checkpoint.
        """
        try:
            return self._open(resume, overwrite)
        except InputError:
            self.close()
            raise

    def _open(self, resume: str, overwrite: bool) -> Path | None:
        _remove(self.folder.glob(f"{TEMPORARY_PREFIX}*"))
        if overwrite:
            _remove(self._run_files())
        checkpoint = Path(resume) if resume not in ("auto", "none") else None
        if checkpoint is not None:
            self._check_checkpoint(checkpoint)
        if self._run_files():
            if resume == "none":
                raise InputError(
                    f"--output_dir {self.folder}: holds a run; --resume auto continues it, --overwrite removes it"
                )
            self._check_identity(self.folder, f"--output_dir {self.folder}: holds another run")
            if checkpoint is None:
                checkpoint = self.newest_checkpoint()
        write_whole(self.folder / RUN_FILE, self._description(), durable=True)
        return checkpoint

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        found = [p for p in self.folder.glob(f"{CHECKPOINT_PREFIX}*") if (p / STATE_FILE).is_file()]
        return sorted(found, key=checkpoint_step)

    def newest_checkpoint(self) -> Path | None:
        """Return the checkpoint with the most steps, or None."""
        found = self.checkpoints()
        return found[-1] if found else None

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Write the checkpoint of a step under a temporary name and rename it; return its folder.

        Args:
            step: number of optimizer steps done.
            write: writes state and weights into a folder that already holds ``run.json``.
        """
        target = self.checkpoint_path(step)
        temporary = self.folder / f"{TEMPORARY_PREFIX}{target.name}"
        temporary.mkdir()
        write_whole(temporary / RUN_FILE, self._description())
        write(temporary)
        for path in temporary.iterdir():
            sync(path)
        if target.exists():  # a run that was resumed from an earlier checkpoint reaches this step again
            shutil.rmtree(target)
        os.rename(temporary, target)
        sync(self.folder)
        return target

    def checkpoint_path(self, step: int) -> Path:
        """Return the folder for the checkpoint of a step. It need not exist."""
        return self.folder / f"{CHECKPOINT_PREFIX}{step:06d}"

    def prune_checkpoints(self, limit: int, best_step: int | None) -> None:
        """Keep the newest ``limit`` checkpoints (0 keeps all) and the best one. Remove the others."""
        for path in self.checkpoints()[:-limit] if limit else []:
            if checkpoint_step(path) != best_step:
                shutil.rmtree(path)

    def cut_metrics(self, step: int) -> Path:
        """Remove later steps and an incomplete last line from ``metrics.jsonl``. Return its path."""
        path = self.folder / METRICS_FILE
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_whole(path, "".join(kept).encode(), durable=True)
        return path

    def _description(self) -> bytes:
        """Return the content of ``run.json``, for the folder and for each checkpoint."""
        return _json_bytes({"identity": self.identity, **self.details})

    def _run_files(self) -> list[Path]:
        names = (RUN_FILE, METRICS_FILE, TENSORBOARD_FOLDER)
        found = [self.folder / name for name in names if (self.folder / name).exists()]
        return found + sorted(self.folder.glob(f"{CHECKPOINT_PREFIX}*"))

    def _check_checkpoint(self, checkpoint: Path) -> None:
        if not (checkpoint / STATE_FILE).is_file():
            raise InputError(f"--resume {checkpoint}: no {STATE_FILE} in it; give auto, none or a checkpoint's folder")
        self._check_identity(checkpoint, f"--resume {checkpoint}: is a checkpoint of another run")

    def _check_identity(self, folder: Path, heading: str) -> None:
        if not (folder / RUN_FILE).is_file():
            raise InputError(f"{heading}, without {RUN_FILE} to compare with; give another folder, or --overwrite")
        found = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["identity"]
        raise_if_any(
            f"{heading}. Give the same flags and data to continue it, another --output_dir for a new run (with "
            "--init_adapter to start from this one's adapter), or --overwrite. Differences",
            differences(self._as_recorded_today(found), json.loads(json.dumps(self.identity))),
        )

    def _as_recorded_today(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Return a recorded identity with the flags that runs record today.

        A flag that is newer than the run has the value that describes releases without the flag. A flag that is no
        longer part of the identity is left out.
        """
        today = self.identity["flags"].keys()
        recorded = {
            name: value for name, value in identity["flags"].items() if name in today or name not in self._flags_before
        }
        added = {name: self._flags_before[name] for name in today - identity["flags"].keys()}
        return {**identity, "flags": {**added, **recorded}}


def read_run_flags(folder: Path) -> dict[str, Any] | None:
    """Return the flags of the run whose ``run.json`` lies in a folder, or None if there is none.

    Raises:
        InputError: if ``run.json`` is damaged.
    """
    path = folder / RUN_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))["flags"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: does not hold the flags of a run ({error}); restore it from a checkpoint, or give --overwrite "
            "to remove the run"
        ) from error


def checkpoint_step(checkpoint: Path) -> int:
    """Return the number of optimizer steps done at a checkpoint."""
    return int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX))


def differences(was: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Return each name whose value differs, as ``name: was X, is Y``. Nested names are joined by dots."""
    found = []
    for name in dict.fromkeys([*was, *now]):
        old, new = was.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name}: was {old!r}, is {new!r}")
    return found


def folder_fingerprint(folder: Path) -> str:
    """Return 16 hex digits of a checkpoint's configuration and of the names and sizes of its weight files."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*config.json"), *folder.glob("*.safetensors")]):
        content = path.read_text(encoding="utf-8") if path.suffix == ".json" else ""
        digest.update(json.dumps([path.name, path.stat().st_size, content]).encode())
    return digest.hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """Return 16 hex digits of a small file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def environment(project: Path) -> dict[str, Any]:
    """Return the versions of this program, its packages and Python, and the commit of ``project`` if it has one."""
    try:
        command = ["git", "-C", str(project), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or not a checkout
        commit = None
    versions = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {
        "version": __version__,
        "versions": versions,
        "python": platform.python_version(),
        "git_commit": commit,
    }


def _lock(path: Path) -> IO[str]:
    """Lock a file until the process ends. The system releases the lock even if the process is killed."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"--output_dir {path.parent}: another process is training into it") from error
    return file


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
