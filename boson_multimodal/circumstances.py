"""Names what a user's machine lacks when an error of the system or of a library ends a command.

Only what is listed here has a name. Any other error is a defect of this project, and keeps its traceback.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from boson_multimodal.disk_errors import os_error_in
from boson_multimodal.errors import InputError, NamedError, visible
from boson_multimodal.memory_errors import Memory, memory_used_up, out_of_memory

DISK_FULL = "make room there, or give another folder"
NO_RIGHT = "give a folder that this user may use, or change the rights"
WRONG_PATH = "check the path"
REMEDIES = {
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.EFBIG: "the disk or `ulimit -f` limits the size of a file",
    errno.EROFS: "give a folder on a disk that can be written",
    errno.EACCES: NO_RIGHT,
    errno.EPERM: NO_RIGHT,
    errno.EMFILE: "raise the limit: ulimit -n 4096",
    errno.ENFILE: "the system has too many open files; close other programs",
    errno.ENOMEM: "close other programs, or take a machine with more memory",
    errno.EAGAIN: "close other programs, or raise the number of processes: ulimit -u",
    errno.EIO: "the disk or its connection fails; copy the data to another disk",
    errno.ESTALE: "the network disk has lost the file; give the command again",
    errno.ENOENT: WRONG_PATH,
    errno.ENOTDIR: WRONG_PATH,
    errno.EISDIR: WRONG_PATH,
    errno.ELOOP: WRONG_PATH,
    errno.ENAMETOOLONG: "give a shorter name",
}
"""Error number of the system -> what to do."""
MEMORY_REMEDIES = {
    Memory.GPU: "give smaller batches, or use a GPU with more memory; nvidia-smi shows what other programs hold",
    Memory.MACHINE: "give less data at once, close other programs, or use a machine with more",
}
"""What to do where a command has no better advice."""
MAY_HAVE_A_NAME = (InputError, OSError, MemoryError, RuntimeError, KeyError, UnicodeEncodeError, SafetensorError)
"""The types of the errors that :func:`named` knows."""


def named(error: BaseException) -> str | None:
    """Return a message about an error: what is wrong, and what to do. None if the error has no name."""
    if isinstance(error, InputError | NamedError):
        return str(error)
    if isinstance(error, OSError):
        return _system_problem(error)
    # The libraries that write tensors have errors of their own for a full disk.
    if isinstance(error, SafetensorError) or "inline_container" in str(error):
        found = os_error_in(error)
        if found is not None and found.filename is None:
            found = OSError(found.errno, found.strerror, "a file of weights")
        return None if found is None else _system_problem(found)
    return _memory_problem(error) or _home_problem(error) or _file_name_problem(error)


def _system_problem(error: OSError) -> str | None:
    remedy = REMEDIES.get(error.errno)
    if remedy is None:
        return None
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    place = f"{' -> '.join(names)}: " if names else ""
    return visible(f"{place}{error.strerror}; {remedy}")


def _memory_problem(error: BaseException) -> str | None:
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return f"the system has no room for another thread; {REMEDIES[errno.EAGAIN]}"
    memory = memory_used_up(error)
    return None if memory is None else f"{out_of_memory(error)}; {MEMORY_REMEDIES[memory]}"


def _home_problem(error: BaseException) -> str | None:
    """Return a message if ``Path.expanduser`` or ``getpass.getuser`` found no user."""
    if isinstance(error, RuntimeError) and str(error) == "Could not determine home directory.":
        if "HOME" in os.environ:
            return "a path begins with ~ and the name of a user whom the system does not know; write the whole path"
        return f"a path begins with ~, but {why_there_is_no_home()}"
    if isinstance(error, KeyError) and "getpwuid(): uid not found" in str(error):
        return f"the system does not know user {os.getuid()}; set LOGNAME to a name"
    return None


def _file_name_problem(error: BaseException) -> str | None:
    encoding = sys.getfilesystemencoding()
    if not isinstance(error, UnicodeEncodeError) or error.encoding != encoding:
        return None
    if encoding == "utf-8":
        is_a_name = any("\udc80" <= character <= "\udcff" for character in error.object)  # bytes that are not UTF-8
        line = error.object[: error.start].rpartition("\n")[2] + error.object[error.start :].partition("\n")[0]
        return f"{visible(line.strip())}: the name is not UTF-8; rename the file or folder" if is_a_name else None
    return f"{error.object}: this locale cannot write the name of the file ({encoding}); set PYTHONUTF8=1"


def is_misread(text: str) -> bool:
    """Return whether a text from the command line is UTF-8 that this locale has read as something else."""
    if text.isascii() or (sys.getfilesystemencoding() == "utf-8" and not any("\ud800" <= c <= "\udfff" for c in text)):
        return False
    try:
        os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return any("\ud800" <= character <= "\udfff" for character in text)
    return True


def why_there_is_no_home() -> str:
    """Return why ``~`` has no meaning, and what to do."""
    return f"HOME is not set, and the system does not know user {os.getuid()}; set HOME, or give a path without ~"


def home_path(path: str | Path, name: str) -> Path:
    """Return a path with ``~`` replaced by the user's home folder.

    Args:
        path: any path. ``~nobody`` may be the name of a file.
        name: the flag or field that holds the path, for the message.

    Raises:
        InputError: if the path begins with ``~/`` and there is no home folder.
    """
    expanded = os.path.expanduser(path)
    if expanded.split(os.sep)[0] == "~":
        raise InputError(f"{name} {path}: {why_there_is_no_home()}")
    return Path(expanded)


@contextmanager
def cache_for_libraries() -> Iterator[None]:
    """Give libraries a folder for their caches if the user has none that can be written.

    numba and librosa fail without such a folder. It is removed at the end. What this project itself keeps, such as
    codes, never goes there.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(cache) and _can_be_written(Path(cache)):
        yield
        return
    with TemporaryDirectory(prefix="library_caches_", ignore_cleanup_errors=True) as folder:
        before = {name: os.environ.get(name) for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
        os.environ |= {"XDG_CACHE_HOME": folder, "NUMBA_CACHE_DIR": before["NUMBA_CACHE_DIR"] or folder}
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _can_be_written(folder: Path) -> bool:
    """Return whether a folder can be written, or else be made."""
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK, effective_ids=True)
