"""Finds the audio files that a table names, and says why some are not there."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from voice_cloning.corpora.cell_values import WrongValue
from voice_cloning.corpora.source_files import AUDIO_SUFFIXES, existing_audio, find_audio, list_files, name_of, normal
from voice_cloning.corpora.utterances import ROUNDING

ARCHIVE_SUFFIXES = (
    *(".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst"),
    *(".zip", ".7z", ".rar"),
)
SHOWN_ARCHIVES = 5
_ABSOLUTE = re.compile(r"/|\\\\|[A-Za-z]:[\\/]")
"""How a name begins that says where its file is, also on Windows."""

_NAMED_BY_TIMES = re.compile(r"(.+?)[_-]([0-9]+(?:\.[0-9]+)?)[_-]([0-9]+(?:\.[0-9]+)?)")
"""The name of a clip that was cut from a recording, with its start and end."""


class AudioFiles:
    """The audio files of one table.

    Attributes:
        missing: the names for which no file was found.
        found_below: the names whose files are in another place than the table says.
    """

    def __init__(self, table: Path, search_below: Path | None = None) -> None:
        """Set up without reading anything.

        Args:
            table: the names are relative to its folder.
            search_below: a folder in whose subfolders a file is looked for that is not where its name says, but not in
                those that have a table of the same name, because their files are those of that table.
        """
        self.table, self.folder, self.search_below = table, table.parent, search_below
        self.missing: set[str] = set()
        self.found_below: set[str] = set()
        self._known: dict[str, Sequence[Path]] = {}
        self._by_name: dict[str, list[Path]] | None = None
        self._archives: list[Path] = []
        self._cuts: dict[str, list[tuple[float, float, list[Path]]]] | None = None

    def exists(self, name: str) -> bool:
        """Return whether a file of this name is found."""
        return bool(name) and bool(self._found(name))

    def find(self, name: str) -> Path:
        """Return the file that a name stands for; if there is none, the path where it most likely should be.

        Raises:
            WrongValue: if several files in subfolders have this name.
        """
        found = self._found(name)
        if len(found) > 1:
            shown = ", ".join(str(path) for path in found[:3])
            raise WrongValue(f"{name}: {len(found)} files have this name ({shown}); write the folder before the name")
        if found:
            return found[0]
        self.missing.add(name)
        return find_audio(self.folder, name)

    def _found(self, name: str) -> Sequence[Path]:
        """Return the files that a name may stand for. The answer is kept, because many cuts are of one file."""
        if name not in self._known:
            self._known[name] = self._searched(name)
        return self._known[name]

    def _searched(self, name: str) -> Sequence[Path]:
        own = self.folder / name
        if os.path.isfile(own):
            return [own]
        searches = self.search_below is not None and not _ABSOLUTE.match(name)
        below = self._below(name) if searches else ()
        if searches and not below:  # all files below were listed
            return ()
        if beside := existing_audio(self.folder, name):
            return [beside]
        if len(below) == 1:
            self.found_below.add(name)
        return below

    def clip_of_cut(self, recording: str, start: float, end: float) -> Path | None:
        """Return the clip that was cut from a recording and is called ``RECORDING_START_END``; None if there is none.

        Args:
            start, end: in seconds; a name may hold them in milliseconds.
        """
        if self.search_below is None:
            return None
        if self._cuts is None:
            self._by_name = self._listed(self.search_below) if self._by_name is None else self._by_name
            self._cuts = defaultdict(list)
            for stem, paths in self._by_name.items():
                if found := _NAMED_BY_TIMES.fullmatch(stem):
                    self._cuts[found[1]].append((float(found[2]), float(found[3]), paths))
        for first, last, paths in self._cuts.get(normal(recording), ()):
            for unit in (1.0, 1000.0):
                if max(abs(first / unit - start), abs(last / unit - end)) < ROUNDING and len(paths) == 1:
                    return paths[0]
        return None

    def archives(self) -> list[Path]:
        """Return the archives in the folder that was searched; empty if no file is missing."""
        return self._archives if self.missing else []

    def _below(self, name: str) -> Sequence[Path]:
        if self._by_name is None:
            self._by_name = self._listed(self.search_below)
        wanted = normal(name_of(name.replace("\\", "/")))
        found = self._by_name.get(PurePosixPath(wanted).name, ())
        # Of files with one name, those in a folder that the table names too are meant.
        folder = str(PurePosixPath(wanted).parent)
        named = [path for path in found if folder != "." and normal(str(path.parent)).endswith(folder)]
        return named or found

    def _listed(self, folder: Path) -> dict[str, list[Path]]:
        files = list_files(folder).files
        others = [path.parent for path in files if path.name == self.table.name and path.parent != self.folder]
        others = [other for other in others if not self.folder.is_relative_to(other)]
        by_name: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            if any(path.is_relative_to(other) for other in others):
                continue
            if path.suffix.lower() in AUDIO_SUFFIXES:
                by_name[normal(path.stem)].append(path)
            elif path.name.lower().endswith(ARCHIVE_SUFFIXES):
                self._archives.append(path)
        return by_name


def archives_fault(files: Sequence[AudioFiles]) -> str | None:
    """Return the fault that archives were not extracted, if audio is missing and there are any; else None."""
    found = list(dict.fromkeys(path for each in files for path in each.archives()))
    if not found:
        return None
    missing = len({name for each in files for name in each.missing})
    shown = ", ".join(str(path) for path in found[:SHOWN_ARCHIVES])
    more = f" and {len(found) - SHOWN_ARCHIVES} more" if len(found) > SHOWN_ARCHIVES else ""
    return (
        f"{missing} audio files are not there, but archives are: {shown}{more}; extract them first, each in its own "
        f"folder, such as: tar -xf {found[0].name}"
    )
