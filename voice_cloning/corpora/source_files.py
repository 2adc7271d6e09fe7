"""Lists the files of a source, finds the audio files that tables name, and reads the lines of text files.

Names are compared in one Unicode normal form (NFC), because macOS writes another one than most programs.
"""

import codecs
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import AnyStr

from boson_multimodal.errors import InputError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".sph")
OTHER_AUDIO_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".3gp", ".ape")
"""Sound that cannot be read here; it is named, because a clip must not vanish without a word."""
AUDIO_FOLDERS = (".", "clips", "wavs", "wav", "audio")
"""Folders, relative to a table, that may hold its audio: Common Voice and LJSpeech name files without their folder."""

SHOWN_FILES = 3
"""Names of files that a fact lists."""
_NO_DATA_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "__pycache__"}
_NO_DATA_FILES = {"thumbs.db", "desktop.ini"}
_DOCUMENTS = re.compile(
    r"(?:readme|licen[cs]e|copying|changelog|notice|citation|contributing)\b[^.]*(?:\.(?:txt|md|rst|html|pdf|cff))?",
    re.IGNORECASE,
)
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_no_data(name: str) -> bool:
    """Return whether a file or folder of this name holds no data: hidden files, leftovers of systems, documents."""
    return (
        name.startswith((".", "~$"))
        or name in _NO_DATA_FOLDERS
        or name.casefold() in _NO_DATA_FILES
        or _DOCUMENTS.fullmatch(name) is not None
    )


@dataclass
class Listing:
    """The files below a folder.

    Attributes:
        files: sorted; links to files and folders are followed.
        aside: files and folders that hold no data, such as ``.DS_Store``, and links to folders that are listed already.
        faults: folders that cannot be entered.
    """

    files: list[Path] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def list_files(source: Path) -> Listing:
    """List the files below a folder; a file is its own list."""
    if source.is_file():
        return Listing([source])
    listing = Listing()

    def note(error: OSError) -> None:
        listing.faults.append(
            f"{error.filename}: this folder cannot be entered ({error.strerror}); allow it, or move it"
        )

    entered: set[str] = set()
    for folder, folders, names in os.walk(source, onerror=note, followlinks=True):
        entered.add(os.path.realpath(folder))
        below = Path(folder)
        kept = []
        for name in sorted(folders, key=lambda name: (os.path.islink(below / name), name)):  # its own name comes first
            if is_no_data(name) or os.path.realpath(below / name) in entered:
                listing.aside.append(below / name)
            else:
                kept.append(name)
                entered.add(os.path.realpath(below / name))
        folders[:] = kept
        for name in names:
            (listing.aside if is_no_data(name) else listing.files).append(below / name)
    listing.files.sort()
    listing.aside.sort()
    return listing


def normal(name: str) -> str:
    """Return a name in the normal form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def find_audio(folder: Path, name: str) -> Path:
    """Return the audio file that a table names; if none exists, the path where it most likely should be."""
    if found := existing_audio(folder, name):
        return found
    closed = [folder / place for place in AUDIO_FOLDERS if not os.access(folder / place, os.X_OK, effective_ids=True)]
    return next((place for place in closed if os.path.isdir(place)), folder) / name


def existing_audio(folder: Path, name: str) -> Path | None:
    """Return the audio file that a table names, or None if there is none.

    The name may lack its suffix or its folder, be written in another normal form, or with the backslashes of Windows.
    """
    if not name:
        return None
    forms = dict.fromkeys([name, normal(name), unicodedata.normalize("NFD", name)])
    if "\\" in name:
        forms |= dict.fromkeys([form.replace("\\", "/") for form in forms])
    for suffix in ("", *AUDIO_SUFFIXES, ".WAV"):  # most names are complete: their place is found first
        for place in AUDIO_FOLDERS:
            for form in forms:
                path = folder / place / f"{form}{suffix}"
                if os.path.isfile(path):  # Path.is_file raises an error if a name is too long
                    return path
    return None


def name_of(file_name: str) -> str:
    """Return a file's name without the suffix of an audio format."""
    stem, suffix = os.path.splitext(file_name)
    return stem if suffix.lower() in AUDIO_SUFFIXES else file_name


def stem_of(file_name: str) -> str:
    """Return the name of an audio file without its folder and suffix, also of a path of Windows."""
    return PurePosixPath(name_of(file_name.replace("\\", "/"))).name


def first_part(file_name: str) -> str:
    """Return the part of a clip's name before the first ``_`` or ``-``, which often names the speaker."""
    return re.split("[-_]", stem_of(file_name), maxsplit=1)[0]


def control_problem(value: str) -> str | None:
    """Return why a name or text cannot be used, if it holds control characters or characters that were lost."""
    if found := _CONTROL.search(value):
        return f"{value!r} holds the control character U+{ord(found[0]):04X}; the file is damaged there"
    if "\ufffd" in value:
        return f"{value!r} holds U+FFFD, which stands for a character that an earlier program lost; write it again"
    return None


@dataclass(frozen=True)
class Line:
    """A line of a text file, without its end. ``number`` counts from 1; ``where`` is for messages."""

    number: int
    where: str
    text: str


@dataclass
class Lines:
    """The lines of a text file that are not blank, the encoding, and the problems of lines that are not in it."""

    encoding: str
    lines: list[Line]
    problems: list[tuple[str, str]]
    blank: int

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)


def read_lines(path: Path, encoding: str | None = None, most_bytes: int | None = None) -> Lines:
    """Read a text file: UTF-8, UTF-16 or UTF-32 by its byte order mark, or the named encoding.

    Only line feeds end a line (or carriage returns, if there is no line feed), because a text may hold U+2028 and the
    like. A line that is not UTF-8 is a problem of this line alone.

    Args:
        most_bytes: read about so many bytes from the start only, up to the end of a line.

    Raises:
        InputError: if the file cannot be read or is in no known encoding.
    """
    try:
        wide = (encoding or "").lower().startswith(("utf-16", "utf-32", "utf16", "utf32"))  # several bytes a line feed
        content = path.read_bytes() if most_bytes is None or wide else _start_of(path, most_bytes)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    found = encoding or next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if found != "utf-8":
        decoded = _decode(path, content, found).removeprefix("\ufeff")
        return _lines(path, found.upper(), _split(decoded, "\n", "\r"), [])
    if content.count(0) > len(content) // 4:
        raise InputError(f"{path}: every other byte is zero, as in UTF-16 without its mark; give --encoding utf-16-le")
    texts: list[str] = []
    problems = []
    while content.startswith(codecs.BOM_UTF8):
        content = content.removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(_split(content, b"\n", b"\r"), 1):
        try:
            texts.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            byte = line[error.start]
            problems.append(
                (f"{path}, line {number}", f"byte 0x{byte:02x} is not UTF-8; save as UTF-8, or name its --encoding")
            )
            texts.append("")
    return _lines(path, "UTF-8", texts, problems)


def _start_of(path: Path, most_bytes: int) -> bytes:
    """Return the lines at the start of a file; the last one is left out, because the limit may lie inside it."""
    with path.open("rb") as file:
        content = file.read(most_bytes)
        if len(content) < most_bytes:
            return content
        if any(content.startswith(mark) for mark, _ in _MARKS):  # a line feed has several bytes there
            return content + file.read()
    return content[: content.rfind(b"\n") + 1] or content


def _lines(path: Path, encoding: str, texts: list[str], problems: list[tuple[str, str]]) -> Lines:
    lines = [Line(number, f"{path}, line {number}", text) for number, text in enumerate(texts, 1) if text.strip()]
    return Lines(encoding, lines, problems, len(texts) - len(lines) - len(problems))


def _split(content: AnyStr, feed: AnyStr, carriage: AnyStr) -> list[AnyStr]:
    """Return the lines of a text, which end with line feeds; or with carriage returns, if there is no line feed."""
    end = feed if feed in content or carriage not in content else carriage
    return [line.removesuffix(carriage) for line in content.removesuffix(end).split(end)] if content else []


def _decode(path: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except LookupError as error:
        raise InputError(
            f"--encoding {encoding}: unknown; utf-8, utf-16, cp1256 and others of Python are known"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as {encoding} ({error.reason} at byte {error.start})") from error


def facts_of_files(what: str, files: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return what was taken for what in several files, once for those that are alike, after their names.

    Args:
        what: what the files are called.
        files: (name, facts) of each.
    """
    seen: dict[tuple[str, ...], list[str]] = {}
    for name, facts in files:
        seen.setdefault(tuple(facts), []).append(name)
    told = []
    for facts, names in seen.items():
        more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
        told += [f"{what}: {', '.join(names[:SHOWN_FILES])}{more}", *facts]
    return told


def each_once(problems: Sequence[tuple[Path, str]]) -> list[str]:
    """Return the problems of several files; one that files have in common is there once, and says how many have it.

    Args:
        problems: (file, what is wrong with it, which may name the file); it may have several lines.
    """
    found: dict[str, list[Path]] = {}
    for path, problem in problems:
        found.setdefault(problem.replace(str(path), "\0").replace("\n", "\n  "), []).append(path)
    listed = []
    for problem, paths in found.items():
        more = len(paths) - 1
        shown = f" (and {more} more file{'s' if more > 1 else ''})" if more else ""
        listed.append(problem.replace("\0", str(paths[0])) + shown)
    return listed
