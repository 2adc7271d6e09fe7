"""Files and folders that are there whole or not at all: written under a temporary name, then renamed.

The temporary name begins with ``TEMPORARY_PREFIX`` and lies beside the target. It is removed when the writing fails;
a process that is killed leaves it behind.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY_PREFIX = ".writing-"


def write_whole(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file; see :func:`open_whole`."""
    with open_whole(path, durable=durable) as file:
        file.write(content)


@contextmanager
def open_whole(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces ``path`` when the block ends without an error.

    Several processes may write the same path at once: each has a temporary file of its own, and the last one to end
    wins.

    Args:
        path: in a folder that exists.
        durable: return only when the disk holds the file and its name, so that a loss of power cannot undo it.

    Raises:
        OSError: if it cannot be written. ``path`` is then what it was before.
    """
    # The random part comes last: a file that a killed process left does not look like a .wav or .json.
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder that becomes ``path`` when the block ends without an error.

    A folder may be large, so its temporary name is always the same: what a killed process left is replaced. Hence two
    processes must not make the same folder at once.

    Args:
        path: not there yet, or an empty folder; in a folder that exists.

    Raises:
        OSError: if the temporary folder cannot be made, or ``path`` holds something.
    """
    temporary = path.absolute().with_name(f"{TEMPORARY_PREFIX}{path.absolute().name}")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def sync(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
