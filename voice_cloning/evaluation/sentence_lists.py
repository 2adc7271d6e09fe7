"""Reads lists of sentences to be spoken: text files with one sentence a line. Each becomes an entry as in a manifest.

Three forms are known:

- A first line with names of columns, and fields parted by tabs (or bars): ``id, text``, and ``reference,
  reference_text, recording, speaker, dialect, kind, scene``. Without references, the voices come from elsewhere.
- Seed-TTS: no header, and fields parted by bars: ``id|text of the prompt|prompt clip|text``, and perhaps
  ``|true recording``. Without it, ``wavs/ID.wav`` beside the list is the recording, where there is such a file.
- The multilingual set of MiniMax: no header, ``voice|text``. The voice is a folder with one clip, or a clip, somewhere
  in the folder ``speaker`` beside the list or beside its folder; ``prompt_text.txt`` in it says what is said in each
  clip, as ``name of the file|text``.

Paths are relative to the list.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from boson_multimodal.chatml_records import read_text
from boson_multimodal.errors import InputError

COLUMNS = ("id", "text", "reference", "reference_text", "recording", "speaker", "dialect", "kind", "scene")
SOUND_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg")
SEED_TTS_COLUMNS = ("id", "reference_text", "reference", "text", "recording")
SEED_TTS_RECORDINGS = "wavs"
VOICES_FOLDER, VOICES_TEXTS = "speaker", "prompt_text.txt"


@dataclass
class SentenceList:
    """A list as it is written.

    Attributes:
        rows: (place, column -> value) of each sentence; a column that is empty in the row is left out.
        problems: what is wrong with lines, and with the files that the list needs.
        notes: what was found or guessed, for the user.
    """

    rows: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_sentence_list(path: Path) -> SentenceList:
    """Read a list in one of the three forms.

    Raises:
        InputError: if the file is missing, is not text, holds no line, or is in no form that is known.
    """
    content = read_text(path)
    lines = [(f"line {n}", line.removesuffix("\r")) for n, line in enumerate(content.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path}: holds no line; write one sentence on each")
    first = lines[0][1]
    mark = "\t" if "\t" in first else "|"
    header = [name.strip() for name in first.split(mark)]
    if "text" in header:
        return _with_header(path, header, mark, lines[1:])
    if mark == "|" and "|" in first:
        return _without_header(path, lines)
    raise InputError(
        f"{path}, line 1: {first[:80]!r}; a list of sentences starts with the names of its columns, parted by tabs "
        f"({', '.join(COLUMNS)}; text is needed), or has lines like id|prompt text|prompt clip|text, or voice|text"
    )


def _with_header(path: Path, header: list[str], mark: str, lines: list[tuple[str, str]]) -> SentenceList:
    found = SentenceList()
    unknown = [name for name in header if name not in COLUMNS]
    found.problems += [f"line 1: column {name!r} is unknown; known are {list(COLUMNS)}" for name in unknown]
    found.problems += [f"line 1: column {n!r} is there {c} times" for n, c in Counter(header).items() if c > 1]
    if not lines:
        raise InputError(f"{path}: holds only the names of its columns; write one sentence on each further line")
    for where, line in lines:
        fields = [value.strip() for value in line.split(mark)]
        if len(fields) != len(header):
            found.problems.append(f"{where}: {len(fields)} fields; line 1 names {len(header)} columns")
            continue
        row = {name: value for name, value in zip(header, fields, strict=True) if value and name in COLUMNS}
        found.rows.append((where, {"id": where.replace(" ", "_"), **row} if "id" not in header else row))
    if "id" not in header:
        found.notes.append("ids: the list names none, so they are line_2, line_3, ...")
    return found


def _without_header(path: Path, lines: list[tuple[str, str]]) -> SentenceList:
    found = SentenceList()
    voices: _Voices | None = None
    for where, line in lines:
        fields = [value.strip() for value in line.split("|")]
        if len(fields) in (4, 5):
            row = {name: value for name, value in zip(SEED_TTS_COLUMNS, fields, strict=False) if value}
            if "id" in row:
                row["id"] = row["id"].removesuffix(".wav")
            found.rows.append((where, row))
        elif len(fields) == 2:
            voices = voices or _Voices.beside(path, found)
            row = {"id": f"{fields[0]}_{where.removeprefix('line ')}", "text": fields[1], "speaker": fields[0]}
            row |= voices.prompt(fields[0], where, found) if voices else {}
            found.rows.append((where, {name: value for name, value in row.items() if value}))
        else:
            found.problems.append(
                f"{where}: {len(fields)} fields; a line has 4 or 5 (id|prompt text|prompt clip|text|recording) or 2 "
                "(voice|text)"
            )
    _add_recordings(path, found)
    return found


def _add_recordings(path: Path, found: SentenceList) -> None:
    """Take ``wavs/ID.wav`` as the recording of each Seed-TTS line that names none, where there is such a file."""
    without = [row for _, row in found.rows if "reference_text" in row and "id" in row and "recording" not in row]
    taken = 0
    for row in without:
        name = f"{SEED_TTS_RECORDINGS}/{row['id']}.wav"
        if (path.parent / name).is_file():
            row["recording"] = name
            taken += 1
    if taken:
        found.notes.append(f"recordings: {taken} of {len(without)} lines have one in {SEED_TTS_RECORDINGS}/")


@dataclass
class _Voices:
    """The voices of a MiniMax list.

    Attributes:
        folder: the folder ``speaker``.
        texts: name of a clip -> what is said in it.
        base: the folder of the list, to which paths of clips are relative.
        known: voice -> columns of its prompt; empty for a voice with a problem, which is listed once.
    """

    folder: Path
    texts: dict[str, str]
    base: Path
    known: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def beside(cls, path: Path, found: SentenceList) -> "_Voices | None":
        """Find the voices of a list; None, with a problem, if there are none."""
        looked_at = [path.parent / VOICES_FOLDER, path.absolute().parent.parent / VOICES_FOLDER]
        folder = next((place for place in looked_at if place.is_dir()), None)
        if folder is None:
            problem = (
                f"lines like voice|text need the clips of the voices in a folder {VOICES_FOLDER!r} beside the list"
            )
            if problem not in found.problems:
                found.problems.append(problem)
            return None
        try:
            content = read_text(folder / VOICES_TEXTS, "it says, as file|text, what is said in each clip")
        except InputError as error:
            if str(error) not in found.problems:
                found.problems.append(str(error))
            return None
        pairs = [line.partition("|") for line in content.split("\n")]
        texts = {Path(name.strip()).name: words.strip() for name, mark, words in pairs if mark}
        return cls(folder, texts, path.parent)

    def prompt(self, voice: str, where: str, found: SentenceList) -> dict[str, str]:
        """Return the columns ``reference`` and ``reference_text`` of a voice."""
        if voice not in self.known:
            self.known[voice] = self._find(voice, where, found)
        return self.known[voice]

    def _find(self, voice: str, where: str, found: SentenceList) -> dict[str, str]:
        named = [place for place in sorted(self.folder.rglob("*")) if voice in (place.name, place.stem)]
        folders = [place for place in named if place.is_dir()]
        places = [clip for folder in folders for clip in sorted(folder.iterdir())] if folders else named
        clips = [clip for clip in places if clip.suffix.lower() in SOUND_SUFFIXES]
        if not clips:
            found.problems.append(f"{where}: voice {voice!r} has no clip in {self.folder}")
            return {}
        if len(clips) > 1:
            found.notes.append(f"voice {voice}: {clips[0].name}, the first of its {len(clips)} clips")
        text = self.texts.get(clips[0].name, self.texts.get(clips[0].stem))
        if not text:
            found.problems.append(
                f"{where}: {VOICES_TEXTS} has no text for {clips[0].name}, the clip of voice {voice!r}"
            )
            return {}
        return {"reference": os.path.relpath(clips[0], self.base), "reference_text": text}
