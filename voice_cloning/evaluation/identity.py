"""Binds a folder to one evaluation: a set, and the settings with which all systems speak."""

import hashlib
import json
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.whole_files import write_whole
from voice_cloning.evaluation.report_form import REPORT_FILE
from voice_cloning.training.fingerprints import differences

IDENTITY_FILE = "evaluation.json"
FORMAT = 1
"""Of the identity file."""


def file_identity(path: Path | None) -> dict[str, str] | None:
    """Return the name and the SHA-256 of a file, or of the files in a folder.

    Raises:
        InputError: if it cannot be read.
    """
    if path is None:
        return None
    digest = hashlib.sha256()
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.relative_to(path)}\n".encode("utf-8", "surrogateescape"))
            digest.update(file.read_bytes() if len(files) == 1 else str(file.stat().st_size).encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a test set") from error
    return {"name": path.name, "sha256": digest.hexdigest()}


def folder_version(path: Path) -> str:
    """Return 16 hex digits that change if a model's folder is written again: names, sizes and times of its files."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    facts = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def check_folder(folder: Path, identity: dict[str, Any]) -> bool:
    """Check that a folder is new, or belongs to this evaluation. Return whether it belongs to it already.

    Systems, seeds and judges may change from call to call; the set and the settings of speech may not, because the
    clips of one report must be comparable.

    Raises:
        InputError: if it holds another evaluation, or cannot be read.
    """
    path = folder / IDENTITY_FILE
    try:
        found = path.read_text(encoding="utf-8") if path.is_file() else None
        if found is None and (folder / REPORT_FILE).exists():
            raise InputError(f"--output_dir {folder}: holds another report ({REPORT_FILE}); give another folder")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--output_dir {folder}: cannot be written: it is a file; give a folder")
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be read ({error.strerror})") from error
    if found is None:
        return False
    try:
        was = json.loads(found)
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); remove it, or give another --output_dir") from error
    if not isinstance(was, dict):
        raise InputError(f"{path}: is damaged; remove it, or give another --output_dir")
    raise_if_any(
        f"--output_dir {folder}: holds another evaluation; give another folder", differences(was, _as_written(identity))
    )
    return True


def bind_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Create the folder of an evaluation, or check that it belongs to this one (:func:`check_folder`).

    Raises:
        InputError: if it holds another evaluation, or cannot be written.
    """
    if check_folder(folder, identity):
        return
    content = json.dumps(_as_written(identity), ensure_ascii=False, indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / IDENTITY_FILE, content.encode())
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be written ({error.strerror})") from error


def _as_written(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity as JSON gives it back: with lists in the place of tuples."""
    return json.loads(json.dumps({"format": FORMAT, **identity}))
