"""Find the local folder of a checkpoint that the user gives as a folder or as a hub id with a revision."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from boson_multimodal.errors import InputError
from boson_multimodal.hub import network_settings, require_connection

CONFIG_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
"""Files of a checkpoint that hold no weights."""
CHECKPOINT_FILES = (*CONFIG_FILES, "*.safetensors")


def resolve_checkpoint(
    path_or_id: str,
    revision: str | None,
    flag: str,
    needed: Sequence[str | tuple[str, ...]],
    fetched: Sequence[str] = CHECKPOINT_FILES,
) -> Path:
    """Return the local folder of a checkpoint, after a download from the hub if it is not on this machine.

    Args:
        path_or_id: a folder, or a hub id such as ``bosonai/higgs-audio-v2-generation-3B-base``.
        revision: the hub's commit, branch or tag. It is ignored for a local folder.
        flag: the flag that gave ``path_or_id``, for the error message.
        needed: patterns of file names that the folder must contain in addition to ``config.json``. A tuple means that
            at least one of its patterns must match.
        fetched: patterns of the files that are downloaded in addition to these.

    Raises:
        InputError: if ``path_or_id`` is not a folder with these files and cannot be downloaded from the hub.
    """
    folder, choices = Path(os.path.expanduser(path_or_id)), [(n,) if isinstance(n, str) else n for n in needed]
    if not folder.exists():
        folder = _fetch(path_or_id, revision, flag, {*fetched, *(pattern for choice in choices for pattern in choice)})
    read_config(folder, f"{flag} {path_or_id}")
    missing = [" or ".join(choice) for choice in choices if not any(any(folder.glob(p)) for p in choice)]
    if missing:
        raise InputError(f"{flag} {path_or_id}: no {' and no '.join(missing)} in it; give a whole checkpoint")
    return folder


def local_checkpoint(path_or_id: str, revision: str | None) -> Path | None:
    """Return the folder of a checkpoint on this machine, complete or not; None if it has no ``config.json`` here."""
    folder = Path(os.path.expanduser(path_or_id))
    if not folder.exists() and is_hub_id(path_or_id):
        found = try_to_load_from_cache(path_or_id, "config.json", revision=revision)
        folder = Path(found).parent if isinstance(found, str) else folder
    return folder if (folder / "config.json").is_file() else None


def read_config(folder: Path, shown: str) -> dict[str, Any]:
    """Return the content of a checkpoint's ``config.json``. Error messages call the folder ``shown``.

    Raises:
        InputError: if the file is missing or does not hold a JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{shown}: no config.json in it; give the folder of a checkpoint") from error
    except ValueError as error:
        raise InputError(f"{shown}: its config.json is not JSON ({error}); fetch it again") from error
    if not isinstance(config, dict):
        raise InputError(f"{shown}: its config.json does not hold a JSON object; fetch it again")
    return config


@contextmanager
def naming_damage(shown: str) -> Iterator[None]:
    """Name a checkpoint whose files a library cannot read. The message calls it ``shown``.

    Raises:
        InputError: with the first line of the library's own message.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{shown}: cannot be loaded ({reason}); fetch it again") from error


def short_name(path_or_id: str, revision: str | None = None) -> str:
    """Return how reports call a checkpoint: the name of its folder without the path, or its hub id and revision."""
    folder = Path(path_or_id).expanduser()
    if folder.exists():
        return folder.resolve().name
    return path_or_id if revision is None else f"{path_or_id}@{revision}"


def is_hub_id(path_or_id: str) -> bool:
    """Return whether ``path_or_id`` is OWNER/NAME on the hub, not a folder on this machine."""
    is_path = path_or_id.startswith(("/", ".", "~")) or path_or_id.count("/") != 1
    return not is_path and not Path(path_or_id).exists()


def _fetch(path_or_id: str, revision: str | None, flag: str, patterns: set[str]) -> Path:
    if not is_hub_id(path_or_id):
        raise InputError(f"{flag} {path_or_id}: no such folder; give a checkpoint's folder or a hub id OWNER/NAME")
    what = f"{flag} {path_or_id}"
    settings = {"revision": revision, "allow_patterns": sorted(patterns)}
    try:
        require_connection(what)
    except InputError:
        try:
            return Path(snapshot_download(path_or_id, local_files_only=True, **settings))
        except (LocalEntryNotFoundError, HFValidationError):
            pass  # it is not on this machine either
        raise
    try:
        return Path(snapshot_download(path_or_id, **settings))
    except RevisionNotFoundError as error:
        raise InputError(f"{what}: no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{what}: no such folder, and the hub does not have it or requires a login (hf auth login)"
        ) from error
    except (LocalEntryNotFoundError, HTTPError, HFValidationError, ConnectionError) as error:
        raise InputError(
            f"{what}: no such folder, not in the local hub cache, and the hub cannot be reached "
            f"({type(error).__name__}{network_settings()}); download it first and give its folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"{what}: cannot be downloaded into the hub's cache {constants.HF_HUB_CACHE} ({error}); make room there or "
            "set HF_HOME to a folder that can be written"
        ) from error
