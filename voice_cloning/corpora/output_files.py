"""Writes the output files of a command into a folder; existing files are replaced only if the user allows it."""

from collections.abc import Iterable
from pathlib import Path

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.whole_files import write_whole

Files = Iterable[tuple[str, bytes | None]]
"""Name in the folder and content of each file; None for a file that must not exist. It is read once."""

TRAIN_FILE, VAL_FILE = "train_chatml_samples.json", "val_chatml_samples.json"
SUMMARY_FILE = "build_summary.json"
BUILT_FILES = (TRAIN_FILE, VAL_FILE, SUMMARY_FILE)
"""What ``build`` writes; in the folder of a source these are no tables of it."""


def refuse_other_content(folder: Path, files: Files) -> None:
    """Check that writing would replace and remove no file.

    Raises:
        InputError: listing the existing files that have other content.
    """
    raise_if_any(
        f"{folder}: holds files with other content; give another --output_dir, or --overwrite to replace them",
        [name for name, content in files if has_other_content(folder / name, content)],
    )


def write_differing(folder: Path, files: Files) -> None:
    """Write the files that do not exist or differ, in the given order; the others are not touched.

    Raises:
        InputError: naming the first file that cannot be written or removed. The files written before it stay.
    """
    for name, content in files:
        path = folder / name
        try:
            if content is None:
                path.unlink(missing_ok=True)
            elif not path.exists() or has_other_content(path, content):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, content)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def has_other_content(path: Path, content: bytes | None) -> bool:
    """Return whether a file exists and has other content."""
    try:
        return path.exists() and (content is None or not path.is_file() or path.read_bytes() != content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
