"""Entries of a packed store, made from numbers, and what a folder of them holds."""

import os
import random
import time
from pathlib import Path

from boson_multimodal.audio_processing.packed_store import PackedStore


def key(number: int) -> bytes:
    """Return a hash as key, like the keys of the cache: evenly distributed and unordered."""
    return random.Random(number).randbytes(32)


def payload(number: int) -> bytes:
    return random.Random(-1 - number).randbytes(1 + number * 7 % 300)


def open_store(folder: Path) -> PackedStore:
    return PackedStore(folder, lambda content: True)


def filled(folder: Path, numbers: range) -> PackedStore:
    """Return a store after this process has written and packed these entries."""
    store = open_store(folder)
    for number in numbers:
        store.write(key(number), payload(number))
    store.seal()
    return store


def holds(store: PackedStore, numbers: range) -> list[bool]:
    """Return whether each entry is present. A present entry must be correct."""
    found = [store.read(key(number)) for number in numbers]
    assert all(content in (None, payload(number)) for number, content in zip(numbers, found, strict=True))
    return [content is not None for content in found]


def files(store: PackedStore) -> list[str]:
    return sorted(path.suffix for path in store.folder.iterdir())


def make_older(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))
