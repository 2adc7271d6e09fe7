"""Reads the subtitles of videos (WebVTT) as the rows of a table that lists the videos, as MASC is published.

``subsets/clean_train.csv`` lists videos, ``subtitles/VIDEO.ar.vtt`` holds what is said and when, and
``audios/VIDEO.wav`` holds the sound.
"""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError
from voice_cloning.corpora.source_files import Line, read_lines
from voice_cloning.corpora.table_lines import Table

VIDEO_COLUMN = "video_id"
CUE_COLUMNS = ("start", "end", "text")
SUBTITLES_FOLDER = "subtitles"
_OF_VIDEOS = {VIDEO_COLUMN, "video_duration", "transcript_duration"}
_TIMES = re.compile(r"((?:\d+:)?\d\d:\d\d[.,]\d{3})\s+-->\s+((?:\d+:)?\d\d:\d\d[.,]\d{3})(?:\s.*)?")
_TAG = re.compile(r"</?[A-Za-z0-9][^<>]*>")


def lists_videos(header: Sequence[str]) -> bool:
    """Return whether a table lists videos, whose texts are in files of subtitles."""
    names = {name.casefold() for name in header}
    return names >= _OF_VIDEOS and not names & set(CUE_COLUMNS)


def header_with_cues(header: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a table with those that its subtitles add, if it lists videos."""
    return (*header, *CUE_COLUMNS) if lists_videos(header) else tuple(header)


def with_cues(table: Table, folder: Path) -> Table:
    """Return the table with a row for each subtitle of its videos.

    Args:
        folder: the folder of ``subtitles/``.

    Raises:
        InputError: if there is no such folder.
    """
    subtitles = folder / SUBTITLES_FOLDER
    if not subtitles.is_dir():
        raise InputError(
            f"{subtitles}: no such folder; it holds the texts of the videos; extract the archive of the corpus, and "
            "leave its folders as they are"
        )
    column = next(name for name in table.header if name.casefold() == VIDEO_COLUMN)
    rows: list[tuple[str, dict[str, Any]]] = []
    problems = list(table.problems)
    for where, row in table.rows:
        path = subtitles / f"{row[column]}.ar.vtt"
        try:
            lines = read_lines(path)
        except InputError as error:
            problems.append((where, str(error)))
            continue
        problems += lines.problems
        rows += [(place, row | dict(zip(CUE_COLUMNS, cue, strict=True))) for place, cue in _cues(lines.lines)]
    facts = [*table.facts, f"texts and times: {SUBTITLES_FOLDER}/VIDEO.ar.vtt of each video"]
    return replace(table, header=header_with_cues(table.header), rows=rows, problems=problems, facts=facts)


def _cues(lines: Sequence[Line]) -> Iterator[tuple[str, tuple[float, float, str]]]:
    """Yield (place, (start, end, text)) of each subtitle. Blank lines are left out already; numbers end a text."""
    times: tuple[str, float, float] | None = None
    text: list[str] = []
    for i, line in enumerate(lines):
        if found := _TIMES.fullmatch(line.text.strip()):
            if times:
                yield times[0], (times[1], times[2], _plain(text))
            times, text = (line.where, _seconds(found[1]), _seconds(found[2])), []
        elif times and not _names_the_next(lines, i):
            text.append(line.text)
    if times:
        yield times[0], (times[1], times[2], _plain(text))


def _names_the_next(lines: Sequence[Line], i: int) -> bool:
    """Return whether a line after a blank one is the name of the subtitle that follows, or begins a note."""
    stands_apart = i > 0 and lines[i].number > lines[i - 1].number + 1
    is_name = i + 1 < len(lines) and _TIMES.fullmatch(lines[i + 1].text.strip()) is not None
    return stands_apart and (is_name or lines[i].text.startswith(("NOTE", "STYLE", "REGION")))


def _seconds(time: str) -> float:
    *hours, minutes, seconds = time.replace(",", ".").split(":")
    return round(3600 * int(hours[0] if hours else 0) + 60 * int(minutes) + float(seconds), 3)


def _plain(lines: Sequence[str]) -> str:
    """Return the text of a subtitle without its tags."""
    return html.unescape(_TAG.sub("", " ".join(lines))).strip()
