"""Say which disk a failed write was for, and what is wrong with it."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from boson_multimodal.errors import InputError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an error",
}
SLOW_SECONDS = 30.0
"""A write that takes longer is said to."""
_SAFETENSORS_NUMBER = re.compile(r"\(os error (\d+)\)")


class DiskError(InputError):
    """A file or folder cannot be written: the disk is full, broken or read-only.

    Attributes:
        problem: the folder and the reason, without the advice of the message.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}. {advice}")
        self.problem = problem


@contextmanager
def naming_disk_errors(folder: Path, advice: str) -> Iterator[None]:
    """Turn the error of a write in ``folder`` into a ``DiskError`` that names the folder and the reason.

    The libraries that write tensors do not raise an ``OSError`` if the disk is full. torch raises a ``RuntimeError``
    about a position in the file; the ``OSError`` is its context. safetensors only has the number in its message.

    Args:
        folder: an existing folder, or one that was to be created.
        advice: what the user should do, as one or more sentences.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        found = os_error_in(error)
        if found is None:
            raise
        raise DiskError(disk_problem(found, folder), advice) from error


def disk_problem(error: OSError, folder: Path) -> str:
    """Return the reason for which a write in a folder failed, and for a full disk the free space of its file system."""
    reason = _REASONS.get(error.errno, "cannot be written")
    details = [error.strerror or str(error)]
    if error.filename is not None and Path(os.fsdecode(error.filename)) != folder:
        details.append(os.fsdecode(error.filename))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        details += _free_space(folder)
    return f"{folder}: {reason} ({'; '.join(details)})"


def _free_space(folder: Path) -> list[str]:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    free = [f"{found.f_bavail * found.f_frsize / 1e6:,.1f} MB are free on its file system"]
    if found.f_files and not found.f_favail:  # some file systems do not count files
        free.append("it has no room for another file")
    return free


def os_error_in(error: BaseException | None) -> OSError | None:
    """Return the ``OSError`` that caused an error; None if there is none."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        if isinstance(error, SafetensorError) and (number := _SAFETENSORS_NUMBER.search(str(error))):
            return OSError(int(number[1]), os.strerror(int(number[1])))
        error = error.__cause__ or error.__context__
    return None
