"""Finds the adapters that ``--adapter`` means, and names them: folders of adapters, and folders that hold such folders.

    adapters/najdi/adapter_config.json, adapter_model.safetensors
    adapters/hijazi/...

``--adapter adapters`` means ``najdi`` and ``hijazi``.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from boson_multimodal.circumstances import home_path
from boson_multimodal.errors import raise_if_any
from lora_config import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from voice_cloning.adapters.adapter_files import OTHER_FORMAT_FILE
from voice_cloning.training.checkpoints import named_checkpoints

BASE = "base"
"""The name of the base alone, without an adapter."""
RESERVED_NAMES = (BASE, "reference", "recording", "recording_codec")
"""Names that an adapter cannot have: the base, and folders of an evaluation that hold no system's clips."""
FILES = (ADAPTER_CONFIG_FILE, ADAPTER_FILE, OTHER_FORMAT_FILE)
"""A folder with one of them is an adapter; whoever reads it says what is missing."""


def adapter_folders(words: Sequence[str | Path]) -> list[Path]:
    """Return the folders of the adapters that the words of ``--adapter`` mean.

    A word that is no adapter and has sub-folders with adapters means all of them, by name. Any other word stays as it
    is: whoever reads it says what is wrong.

    Raises:
        InputError: naming each sub-folder of such a folder that holds the checkpoints of a run and no adapter.
    """
    found: list[Path] = []
    problems: list[str] = []
    for word in words:
        folder = home_path(word, "--adapter")
        below = _sub_folders(folder)
        adapters = [path for path in below if _is_adapter(path)]
        for path in below if adapters else ():
            if not _is_adapter(path) and (checkpoints := named_checkpoints(path)):
                problems.append(
                    f"--adapter {path}: holds checkpoints of a run and is no adapter; give one of them, such as "
                    f"--adapter {checkpoints[-1]}"
                )
        found += adapters or [folder]
    raise_if_any("folders of adapters", problems)
    return found


def folder_lines(words: Sequence[str | Path]) -> list[str]:
    """Return a line for each word of ``--adapter`` that means several folders: which ones, and which ones not."""
    lines = []
    for word in words:
        below = _sub_folders(home_path(word, "--adapter"))
        names = [path.name for path in below if _is_adapter(path)]
        others = [path.name for path in below if path.name not in names]
        if names:
            without = f"; without an adapter: {', '.join(others)}" if others else ""
            lines.append(f"--adapter {word}: {len(names)} adapters in it, {', '.join(names)}{without}")
    return lines


def _sub_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that is no adapter itself, by name. Hidden ones do not count."""
    try:
        if _is_adapter(folder) or not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # whoever reads the adapter says why the folder cannot be read
        return []


def folders_without_adapter(folders: Iterable[Path]) -> list[str]:
    """Return a problem for each folder that neither is an adapter nor holds one."""
    problems = []
    for folder in folders:
        if not folder.is_dir():
            problems.append(f"--adapter {folder}: no such folder")
        elif not _is_adapter(folder):
            problems.append(f"--adapter {folder}: holds no adapter, and none of its sub-folders is one")
    return problems


def _is_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FILES)


def named_adapters(words: Sequence[str | Path]) -> dict[str, Path]:
    """Return the folders of the adapters that ``--adapter`` means by their short names, which differ.

    Raises:
        InputError: if two are the same folder, and the errors of :func:`adapter_folders`.
    """
    folders = adapter_folders(words)
    whole = [folder.resolve() for folder in folders]
    twice = {str(folder) for folder in whole if whole.count(folder) > 1}
    raise_if_any("--adapter: given twice", sorted(twice))
    return dict(zip(short_names([os.path.abspath(folder) for folder in folders]), folders, strict=True))


def short_names(paths: Sequence[str]) -> list[str]:
    """Return a name for each folder: its own name, with the names of parents before it until all names differ."""
    parts = [Path(path).absolute().parts[1:] or ("root",) for path in paths]
    lengths = [1] * len(parts)
    while True:
        names = ["/".join(own[-length:]) for own, length in zip(parts, lengths, strict=True)]
        count = Counter(names)
        short = [
            i
            for i, name in enumerate(names)
            if (count[name] > 1 or name in RESERVED_NAMES) and lengths[i] < len(parts[i])
        ]
        if not short:
            return _numbered(names)
        for i in short:
            lengths[i] += 1


def _numbered(names: Sequence[str]) -> list[str]:
    """Return names that differ: one folder may be a system of two kinds, and ``/base`` has no parent."""
    found: list[str] = []
    for name in names:
        number, free = 1, name
        while free in found or free in RESERVED_NAMES:
            number += 1
            free = f"{name}-{number}"
        found.append(free)
    return found
