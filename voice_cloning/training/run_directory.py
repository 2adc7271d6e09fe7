"""The output folder of a run: its files, and the check that a run resumes only its own checkpoints.

    run.json                     resolved flags, data fingerprints, versions, commit
    metrics.jsonl                one line per logged step, per evaluation and per spoken sample
    tensorboard/                 the same numbers as plots
    samples/                     clips that evaluations spoke (sample_files.py)
    selection.json               the best checkpoint by its speech, if tools.evaluate --select has chosen one
    checkpoint-000120/           adapter_model.safetensors, adapter_config.json, README.md (its card), run.json,
                                 trainer_state.json, optimizer.pt; prompt_template.json if there is a template

A checkpoint is written under a temporary name and then renamed, so a folder with the name above is complete, unless
the disk or somebody has changed it. Everything else in the folder is not the program's and is left alone.
"""

import fcntl
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from boson_multimodal.disk_errors import disk_problem, naming_disk_errors
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.whole_files import TEMPORARY_PREFIX, sync, write_whole
from voice_cloning.training.checkpoints import (
    RUN_FILE,
    SELECTION_FILE,
    STATE_FILE,
    DamageError,
    checkpoint_name,
    checkpoint_step,
    has_checkpoint_name,
    is_written_by_program,
    named_checkpoints,
    read_run,
    read_state,
    remove_checkpoint,
    write_checksums,
)
from voice_cloning.training.fingerprints import differences
from voice_cloning.training.metrics import METRICS_FILE, TENSORBOARD_FOLDER, read_metrics_lines
from voice_cloning.training.sample_files import remove_samples

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_HEX = "[0-9a-f]{32}"
_LEFT_OVER = re.compile(
    re.escape(TEMPORARY_PREFIX)
    + rf"(({re.escape(RUN_FILE)}|{re.escape(METRICS_FILE)})[.]{_HEX}|checkpoint-[0-9]{{6,}}([.]{_HEX})?)"
)
"""The temporary names that a killed run leaves behind. Checkpoints of earlier releases had no random part."""


class RunDirectory:
    """The output folder of one run, as its main process sees it.

    Args:
        folder: created if it does not exist.
        identity: nested names and values that determine the result. Two runs with equal identity are the same run.
        details: the rest of ``run.json``.
        flags_before: for each flag, the value that describes releases without the flag. A run that does not record
            a flag has this value.
        check: returns the ``run.json`` of a checkpoint from which a run can resume; raises ``DamageError`` for any
            other.
        compare: returns what makes another run of a recorded identity and today's; by default every difference.
        admit: raises an ``InputError`` if this call may not resume from a checkpoint of this run.

    Raises:
        InputError: if the folder cannot be created, or another process is using it.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        details: dict[str, Any],
        flags_before: dict[str, Any],
        check: Callable[[Path], dict[str, Any]],
        compare: Callable[[dict[str, Any], dict[str, Any]], list[str]] | None = None,
        admit: Callable[[Path], None] = lambda checkpoint: None,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.details = details
        self._flags_before = flags_before
        self._check = check
        self._compare = compare or differences
        self._admit = admit
        self._damaged: set[str] = set()
        self._newest: Path | None = None
        try:
            _create(folder)
            self._lock = _lock(folder / LOCK_FILE)
        except OSError as error:
            raise InputError(f"--output_dir {disk_problem(error, folder)}") from error

    def close(self) -> None:
        """Unlock the folder, so that another process can use it."""
        self._lock.close()

    def open(self, resume: str, overwrite: bool) -> Path | None:
        """Find the checkpoint to resume from, and write ``run.json``. If this fails, the folder is closed.

        Damaged checkpoints are named in the log. They stay until the run saves at their step.

        Args:
            resume: ``auto`` (resume from the newest sound checkpoint of the same run), ``none``, or a checkpoint's
                folder.
            overwrite: first remove the files of any run in the folder.

        Returns:
            The checkpoint to resume from, or None to begin at step 0.

        Raises:
            InputError: if the folder holds another run (it names each difference), if ``resume`` is no sound
                checkpoint, if the folder holds checkpoints and none is sound, or if a file cannot be written.
        """
        try:
            with naming_disk_errors(self.folder, "Make room or make it writable, or give another --output_dir"):
                self._newest = self._open(resume, overwrite)
        except InputError:
            self.close()
            raise
        return self._newest

    def _open(self, resume: str, overwrite: bool) -> Path | None:
        named = None if resume in ("auto", "none") else Path(resume)
        if named is not None:
            self._check_named(named, overwrite)
        for name in filter(_LEFT_OVER.fullmatch, os.listdir(self.folder)):
            _remove(self.folder / name)
        if overwrite:
            for path in self._run_files():
                _remove(path)
            remove_samples(self.folder, 0)
        found = None
        if self._run_files():
            if resume == "none":
                raise InputError(
                    f"--output_dir {self.folder}: holds a run; --resume auto continues it, --overwrite removes it"
                )
            found = self._resume_point(named is None)
        self._check_places()
        checkpoint = named or found
        if checkpoint is not None:
            self._admit(checkpoint)
        write_whole(self.folder / RUN_FILE, self._description(), durable=True)
        return checkpoint

    @property
    def newest(self) -> Path | None:
        """The checkpoint that was written last, or else the one that the run resumed from."""
        return self._newest

    @property
    def resumes(self) -> str:
        """How the same command goes on, in words."""
        return "it begins at step 0" if self._newest is None else f"it resumes from {self._newest}"

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that the program wrote and that have a state, oldest first."""
        found = filter(is_written_by_program, named_checkpoints(self.folder))
        return [path for path in found if os.path.isfile(path / STATE_FILE)]

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Write the checkpoint of a step under a temporary name and rename it; return its folder.

        Args:
            step: number of optimizer steps done.
            write: writes state and weights into a folder that already holds ``run.json``.

        Raises:
            DiskError: if the disk is full or broken. Nothing is left of the checkpoint then.
        """
        target = self.checkpoint_path(step)
        temporary = self.folder / f"{TEMPORARY_PREFIX}{target.name}.{uuid.uuid4().hex}"
        try:
            with naming_disk_errors(self.folder, f"Make room, and run the same command again: {self.resumes}"):
                temporary.mkdir()
                write_whole(temporary / RUN_FILE, self._description())
                write(temporary)
                write_checksums(temporary)
                metrics = [path for path in [self.folder / METRICS_FILE] if path.exists()]
                for path in [*temporary.iterdir(), temporary, *metrics]:
                    sync(path)
                self._rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._damaged.discard(target.name)
        self._newest = target
        return target

    def _rename(self, temporary: Path, target: Path) -> None:
        """Give a complete checkpoint its name. What had the name is removed if the program wrote it, else renamed."""
        aside = None
        if os.path.lexists(target):  # a run that was resumed from an earlier checkpoint reaches this step again
            aside = _unused(target.with_name(f"{target.name}.set-aside"))
            os.rename(target, aside)
        os.rename(temporary, target)
        sync(self.folder)
        if aside is not None:
            if is_written_by_program(aside):
                remove_checkpoint(aside)
            if os.path.lexists(aside):
                logger.warning("%s held files of yours; they are in %s now", target, aside)

    def checkpoint_path(self, step: int) -> Path:
        """Return the folder for the checkpoint of a step. It need not exist."""
        return self.folder / checkpoint_name(step)

    def prune_checkpoints(self, limit: int, best_step: int | None) -> None:
        """Keep the newest ``limit`` checkpoints (0 keeps all) and the best one. Remove the others.

        Checkpoints that were found damaged, and those of steps that this run has yet to reach, neither count nor go.
        """
        newest = checkpoint_step(self._newest)
        reached = [p for p in self.checkpoints() if p.name not in self._damaged and checkpoint_step(p) <= newest]
        for path in reached[:-limit] if limit else []:
            if checkpoint_step(path) != best_step:
                try:
                    remove_checkpoint(path)
                except OSError as error:
                    logger.warning("%s cannot be removed (%s); the run goes on", path, error.strerror)

    def cut_metrics(self, step: int, evaluates_again: bool = False) -> None:
        """Remove later steps and damaged lines from ``metrics.jsonl``, and later spoken clips from ``samples``.

        The number of damaged lines is logged. If the run repeats the evaluation of ``step``, that is removed too.
        """
        path = self.folder / METRICS_FILE
        kept, evaluated = [], step - 1 if evaluates_again else step
        with naming_disk_errors(self.folder, "Make room, and run the same command again"):
            if path.exists():
                lines = read_metrics_lines(path)
                kept = [line + b"\n" for line, r in lines.sound if r["step"] <= (step if "loss" in r else evaluated)]
                if lines.damaged:
                    shown = "; ".join(lines.damaged[:3]) + ("; ..." if len(lines.damaged) > 3 else "")
                    logger.warning("%s: %d damaged lines were dropped (%s)", path, len(lines.damaged), shown)
            write_whole(path, b"".join(kept), durable=True)
            remove_samples(self.folder, evaluated + 1)

    def _description(self) -> bytes:
        """Return the content of ``run.json``, for the folder and for each checkpoint."""
        return _json_bytes({"identity": self.identity, **self.details})

    def _run_files(self) -> list[Path]:
        names = (RUN_FILE, METRICS_FILE, TENSORBOARD_FOLDER, SELECTION_FILE)
        found = [self.folder / name for name in names if os.path.lexists(self.folder / name)]
        return found + list(filter(is_written_by_program, named_checkpoints(self.folder)))

    def _check_places(self) -> None:
        """Check the files that are written after the weights are loaded."""
        metrics, plots = self.folder / METRICS_FILE, self.folder / TENSORBOARD_FOLDER
        advice = "move it away; the program writes there"
        if os.path.lexists(metrics) and not os.path.isfile(metrics):
            raise InputError(f"{metrics}: is not a file; {advice}")
        if os.path.isdir(self.folder / RUN_FILE):
            raise InputError(f"{self.folder / RUN_FILE}: is a folder, not a file; {advice}")
        if os.path.lexists(plots) and not os.path.isdir(plots):
            raise InputError(f"{plots}: is not a folder; {advice}")
        if os.path.isfile(metrics):
            with metrics.open("rb+"):
                pass

    # -- what to resume from -------------------------------------------------------------------------------------

    def _check_named(self, checkpoint: Path, overwrite: bool) -> None:
        if not os.path.isfile(checkpoint / STATE_FILE):
            raise InputError(f"--resume {checkpoint}: no {STATE_FILE} in it; give auto, none or a checkpoint's folder")
        if overwrite and self.folder.resolve() in checkpoint.resolve().parents:
            raise InputError(f"--resume {checkpoint}: lies in --output_dir, from which --overwrite removes it")
        try:
            run = self._check(checkpoint)
        except DamageError as error:
            raise InputError(f"--resume {checkpoint}: is damaged: {error}; give another checkpoint, or auto") from error
        self._require_own(run, f"--resume {checkpoint}: is a checkpoint of another run")

    def _resume_point(self, search: bool) -> Path | None:
        """Check that the folder holds this run. Return its newest sound checkpoint, if ``search`` asks for it."""
        heading = f"--output_dir {self.folder}: holds another run"
        damage = None
        try:
            recorded = read_run(self.folder)
            if holds_steps(self.folder):
                self._require_own(recorded, heading)
            elif search:
                self._log_changes(recorded)
        except DamageError as error:
            damage = str(error)
        found = self._newest_sound() if search or damage else None
        if damage and found is None:
            raise InputError(
                f"{heading}, without {RUN_FILE} to compare with ({damage}); give another folder, or --overwrite"
            )
        if damage:
            logger.warning("%s; %s has one, and is of the same run, so the run goes on", damage, found)
        return found

    def _log_changes(self, recorded: dict[str, Any]) -> None:
        """Log what differs from the start that ended before any step, since nothing of it can be lost."""
        was = self._as_recorded_today(recorded["identity"])
        for difference in differences(was, json.loads(json.dumps(self.identity))):
            logger.info("changed since a start that ended before its first step was logged: %s", difference)

    def _newest_sound(self) -> Path | None:
        """Return the newest sound checkpoint of this run and log which newer ones are not; None if there is none."""
        problems, damaged = [], []
        for path in reversed(named_checkpoints(self.folder)):
            try:
                self._check_own(path)
            except DamageError as error:
                problems.append(str(error))
                damaged.append(path)
                continue
            self._log_damage(problems, damaged, path)
            return path
        raise_if_any(
            f"--output_dir {self.folder}: none of its checkpoints is sound. Restore one, or give --overwrite to begin "
            "at step 0, or another --output_dir (with --init_adapter for an adapter that is sound). What is wrong",
            problems,
        )
        logger.info("%s holds a run without a checkpoint; it begins at step 0", self.folder)
        return None

    def _log_damage(self, problems: list[str], damaged: list[Path], taken: Path) -> None:
        self._damaged = {path.name for path in damaged}
        for problem in problems:
            logger.warning("damaged: %s", problem)
        if damaged:
            lost = checkpoint_step(damaged[0]) - checkpoint_step(taken)
            names = ", ".join(path.name for path in damaged)
            logger.warning("%s is taken instead of %s; steps that are trained again: %d", taken, names, lost)

    def _check_own(self, checkpoint: Path) -> None:
        run = self._check(checkpoint)
        if (step := read_state(checkpoint)["step"]) != checkpoint_step(checkpoint):
            raise DamageError(f"{checkpoint}: its {STATE_FILE} is of step {step}")
        try:
            self._require_own(run, f"{checkpoint}: is of another run")
        except InputError as error:
            raise DamageError(str(error)) from error

    def _require_own(self, run: dict[str, Any], heading: str) -> None:
        raise_if_any(
            f"{heading}. Give the same flags and data to continue it, another --output_dir for a new run (with "
            "--init_adapter to start from this one's adapter), or --overwrite. Differences",
            self._compare(self._as_recorded_today(run["identity"]), json.loads(json.dumps(self.identity))),
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


def holds_steps(folder: Path) -> bool:
    """Return whether a run has left anything of its steps in a folder, which need not exist: a checkpoint or metrics.

    A run that ended before its first step, for want of memory or by Ctrl-C, leaves its description alone.
    """
    metrics = folder / METRICS_FILE
    if not folder.is_dir():
        return False
    return bool(named_checkpoints(folder)) or (metrics.is_file() and metrics.stat().st_size > 0)


def _create(folder: Path) -> None:
    """Create a folder, and wait until its name is on the disk."""
    if not folder.is_dir():
        _create(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def _lock(path: Path) -> IO[bytes]:
    """Lock a file until the process ends. The system releases the lock even if the process is killed."""
    # Nothing is written, so a link to another file does no harm; a pipe with this name does not block.
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "rb", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"--output_dir {path.parent}: another process is training into it") from error
    return file


def is_in_use(folder: Path) -> bool:
    """Return whether a process trains into a folder now, as far as this user may know."""
    try:
        with (folder / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no run of this release, or one that this user may not read
        return False
    return False


def _unused(path: Path) -> Path:
    """Return the path, or the path with the first number for which nothing exists."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _remove(path: Path) -> None:
    """Remove a file or a folder of the program. A link is removed, not what it points to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    elif has_checkpoint_name(path):
        remove_checkpoint(path)
    else:
        shutil.rmtree(path)


def _json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
