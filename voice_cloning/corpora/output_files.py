"""Files that a command writes into a folder: what is there already is kept, and replaced only if the user says so."""

from collections.abc import Iterable
from pathlib import Path

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.whole_files import write_whole

Files = Iterable[tuple[str, bytes | None]]
"""Name in the folder and content of each file; None for a file that must not be there. Read once."""


def refuse_other_content(folder: Path, files: Files) -> None:
    """Check that writing would replace and remove nothing.

    Raises:
        InputError: listing the files that are there with other content.
    """
    raise_if_any(
        f"{folder}: holds files of other content; give another --output_dir, or --overwrite to replace them",
        [name for name, content in files if _differs(folder / name, content)],
    )


def write_differing(folder: Path, files: Files) -> None:
    """Write the files that are not there or differ, in the given order; the others are not touched.

    Raises:
        InputError: naming the first file that cannot be written or removed. Those before it stay.
    """
    for name, content in files:
        path = folder / name
        try:
            if content is None:
                path.unlink(missing_ok=True)
            elif not path.exists() or _differs(path, content):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, content)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _differs(path: Path, content: bytes | None) -> bool:
    """Whether something else than ``content`` is there."""
    try:
        return path.exists() and (content is None or not path.is_file() or path.read_bytes() != content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
