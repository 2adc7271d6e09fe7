"""A small file system for tests that fill a disk, and a folder into which nothing can be written."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CAPABILITY_VERSION = 0x20080522
"""The third version of the structures of ``capget``."""
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1 << 1, 1 << 2


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


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let this thread write nothing into a folder. Root may write anywhere, so it gives up that right for a while."""
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        with _without_rights_of_root():
            yield
    finally:
        folder.chmod(mode)


@contextmanager
def _without_rights_of_root() -> Iterator[None]:
    """Give up the right of root to pass over the modes of files, in this thread."""
    if os.geteuid() != 0:
        yield
        return
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    was, now = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    for rights in (was, now):
        assert library.capget(header, rights) == 0
    now[0] &= ~(CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH)  # the first word is what is in force
    assert library.capset(header, now) == 0
    try:
        yield
    finally:
        assert library.capset(header, was) == 0
