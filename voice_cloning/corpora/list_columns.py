"""Says which column of a list without a header is the audio, the text and the speaker, by what the columns hold."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boson_multimodal.errors import InputError
from voice_cloning.corpora.cell_values import has_no_letter
from voice_cloning.corpora.columns import Columns, Roles
from voice_cloning.corpora.speaker_sources import COLUMN, PLACES, speaker_choices
from voice_cloning.corpora.utterances import ONE_SPEAKER

LJSPEECH_COLUMNS = ("id", "text", "normalized_text")
SAMPLE_ROWS = 50
"""Rows whose files are looked for, to tell the audio column."""
MOST_LABEL_WORDS = 3
SHARED_WORDS = 0.4
"""Share of the words of the longer text that a text and its normalised form have in common at least."""

Row = Mapping[str, Any]


def roles_of_list(rows: Sequence[Row], columns: Columns, where: str, exists: Callable[[str], bool]) -> Roles:
    """Return the roles of the columns of a list without a header, by what they hold. Their names are 1, 2, 3...

    The audio column names files that exist. A text has Arabic letters or spaces. A speaker repeats like a label. Two
    texts that resemble each other are a text and its normalised form, as in LJSpeech.

    Raises:
        InputError: if a column cannot be told apart; it says what each column looks like.
    """
    names = list(rows[0])
    aliases = dict(zip(LJSPEECH_COLUMNS, names, strict=False))
    named = {
        flag: aliases.get(wanted, wanted) if wanted else None
        for flag, wanted in (("--audio_column", columns.audio), ("--text_column", columns.text))
    }
    place = columns.speaker_from if columns.speaker_from in PLACES else None
    named["--speaker_from"] = None if place or columns.speaker_from == COLUMN else columns.speaker_from
    if unknown := [
        f"{flag} {wanted}: unknown column" for flag, wanted in named.items() if wanted and wanted not in names
    ]:
        raise InputError(f"{'; '.join(unknown)}; {where} has no header; its columns are {names}")
    held = {name: _Held.of([row[name].strip() for row in rows]) for name in names}
    audio = named["--audio_column"] or max(
        names, key=lambda name: sum(bool(row[name].strip()) and exists(row[name].strip()) for row in rows[:SAMPLE_ROWS])
    )
    rest = [name for name in names if name not in (audio, named["--speaker_from"])]
    texts = [named["--text_column"]] if named["--text_column"] else _texts(rest, held, rows, where)
    speaker = named["--speaker_from"]
    if not speaker and not place:
        other = [name for name in rest if name not in texts and (held[name].is_label or not held[name].is_text)]
        speaker = _speaker(other, held, where)
        if speaker is None and columns.speaker_from == COLUMN:
            raise InputError(
                f"--speaker_from column: no column of {where} repeats like a speaker; {speaker_choices(False)}"
            )
    is_at_word = named["--speaker_from"] is not None
    return Roles(audio, tuple(texts), speaker, place or (None if speaker else ONE_SPEAKER), is_at_word=is_at_word)


@dataclass(frozen=True)
class _Held:
    """What a column of a list holds."""

    rows: int
    distinct: int
    is_language: bool
    numbers: float
    arabic: float
    spaced: float
    words: float

    @classmethod
    def of(cls, values: Sequence[str]) -> "_Held":
        filled = [value for value in values if value] or [""]
        share = 1 / len(filled)
        return cls(
            rows=len(filled),
            distinct=len(set(filled)),
            is_language=all(re.fullmatch("(?:[A-Za-z]{2}(?:[-_][A-Za-z]{2})?)?", value) for value in filled),
            numbers=share * sum(has_no_letter(value) for value in filled),
            arabic=share * sum(re.search("[\u0620-\u064a\u0671-\u06d3]", value) is not None for value in filled),
            spaced=share * sum(" " in value for value in filled),
            words=share * sum(len(value.split()) for value in filled),
        )

    @property
    def is_label(self) -> bool:
        """Whether the values repeat like labels: short, and each of them twice or more on the average."""
        return 2 * self.distinct <= self.rows and self.words <= (1.5 if self.arabic > 0.5 else MOST_LABEL_WORDS)

    @property
    def is_text(self) -> bool:
        return self.numbers < 0.5 and max(self.arabic, self.spaced) >= 0.5

    def __str__(self) -> str:
        kind = "a number" if self.numbers >= 0.5 else "a text" if self.is_text and not self.is_label else "a name"
        return f"{kind}, {self.distinct} different ones in {self.rows} rows"


def _texts(names: Sequence[str], held: Mapping[str, _Held], rows: Sequence[Row], where: str) -> list[str]:
    """Return the text column; of a text and its normalised form, the normalised one first."""
    candidates = [name for name in names if held[name].is_text]
    found = [name for name in candidates if not held[name].is_label] or candidates
    if len(found) == 2 and _resemble([(row[found[0]], row[found[1]]) for row in rows]):
        return [found[1], found[0]]
    if len(found) != 1:
        seen = "; ".join(f"column {name} holds {held[name]}" for name in names)
        problem = "several columns read like a text" if found else "no column reads like a text"
        raise InputError(f"{where}: has no header, and {problem}; name it with --text_column NUMBER ({seen})")
    return found


def _resemble(pairs: Sequence[tuple[str, str]]) -> bool:
    """Return whether most pairs share many of their words, or one of the two is empty."""
    alike = 0
    for one, other in pairs:
        words = set(one.split()), set(other.split())
        alike += not all(words) or len(words[0] & words[1]) >= SHARED_WORDS * max(map(len, words))
    return 2 * alike > len(pairs)


def _speaker(names: Sequence[str], held: Mapping[str, _Held], where: str) -> str | None:
    labels = [name for name in names if held[name].is_label and held[name].distinct > 1]
    if len(labels) > 1:
        seen = "; ".join(f"column {name} holds {held[name]}" for name in names)
        raise InputError(
            f"{where}: has no header, and several columns repeat like a speaker; give --speaker_from NUMBER ({seen})"
        )
    varied = [name for name in names if held[name].distinct > 1]
    if not labels and varied:
        seen = "; ".join(f"column {name} holds {held[name]}" for name in varied)
        raise InputError(
            f"{where}: has no header, and no column repeats like a speaker; give --speaker_from NUMBER, or one for a "
            f"single voice ({seen})"
        )
    if labels:
        return labels[0]
    # A value that never changes is the one speaker, or the language, which some lists name beside it.
    single = [name for name in names if not held[name].is_language]
    return single[0] if len(single) == 1 else None
