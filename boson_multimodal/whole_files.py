"""Write files and folders under a temporary name and rename them, so that the target is always complete.

The temporary file or folder is in the folder of the target, and its name begins with ``TEMPORARY_PREFIX``. It is
removed if the writing fails. A killed process does not remove it.
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

    Several processes may write the same path at once: each has its own temporary file, and the last one to finish
    wins.

    Args:
        path: a path in an existing folder.
        durable: whether to wait until the file and its name are on the disk, so that a power loss cannot undo them.

    Raises:
        OSError: if the file cannot be written; its ``filename`` is set. ``path`` has not changed then.
    """
    # The random part comes last, so that the file of a killed process does not end in .wav or .json.
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
    except OSError as error:
        if error.filename is None:  # Python names no file if a write fails
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder that is renamed to ``path`` when the block ends without an error.

    A folder may be large, so the temporary name is always the same, and the next call removes the folder of a killed
    process. Two processes must therefore not write the same folder at once.

    Args:
        path: a new path in an existing folder, or an empty folder.

    Raises:
        OSError: if the temporary folder cannot be created, or ``path`` is not empty.
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


def append_whole(file: BinaryIO, content: bytes) -> None:
    """Append to an unbuffered file, all or nothing. One ``write`` of such a file may write only a part.

    Raises:
        OSError: if the content cannot be written. The file then ends where it ended before.
    """
    end, rest = file.tell(), memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(end)
        raise


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
