"""Fingerprints of files and folders, and the differences between two sets of named values."""

import hashlib
import json
from pathlib import Path
from typing import Any


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
