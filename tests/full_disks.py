"""A small file system for tests that fill a disk."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount an empty file system of this size at a new folder. Skip the test where this is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave_kilobytes: int) -> None:
    """Fill a disk with one file, except for so much."""
    piece = bytes(1024)
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(piece) == len(piece):
                pass
        except OSError:
            pass
        file.truncate(max(0, file.tell() // 4096 * 4096 - leave_kilobytes * 1024))
