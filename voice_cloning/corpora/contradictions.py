"""Finds what does not add up in a collection: columns that hold something else than they were taken for."""

import html
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from voice_cloning.corpora.cell_values import has_no_letter
from voice_cloning.corpora.columns import Columns
from voice_cloning.corpora.source_files import first_part
from voice_cloning.corpora.speaker_sources import COLUMN
from voice_cloning.corpora.utterances import Collection, speakers_of

FEWEST_ROWS = 10
"""Fewer rows are too few to say that a value repeats, or that it does not."""
LABEL_REPEATS = 4
"""Texts of one word that are repeated as often as this on the average are labels."""

_FILE_NAME = re.compile(r"[^\s|,;]+\.(?:wav|flac|mp3|ogg|opus|txt|lab)(?![^\W_])", re.IGNORECASE)


def find_contradictions(collection: Collection, columns: Columns) -> None:
    """Add a fault or a problem for each contradiction; a column that the user named is taken at his word."""
    if collection.form in ("table", "ljspeech", "audiofolder", "huggingface", "webdataset"):
        if columns.text is None:
            _check_texts(collection)
        is_column = columns.speaker_from in (None, COLUMN) and collection.speaker_from is None
        if is_column and collection.corpus is None:
            _check_speakers(collection)
    _check_spelling(collection)
    if collection.speaker_is_guessed and len(speakers_of(collection.utterances)) == 1:
        _check_one_voice(collection)


def _check_texts(collection: Collection) -> None:
    texts = [u.text for u in collection.utterances if u.text]
    for utterance in collection.utterances:
        if name := _FILE_NAME.search(utterance.text):
            collection.refuse(utterance.where, f"the text holds the name of a file, {name[0]}; write what is said")
        if utterance.text and has_no_letter(utterance.text):
            collection.refuse(
                utterance.where,
                f"the text is {utterance.text!r}, which has no letter; write what is said in words, or confirm the "
                "column with --text_column",
            )
    distinct = len(set(texts))
    words = sum(" " in text for text in texts)
    if len(texts) >= FEWEST_ROWS and distinct * LABEL_REPEATS <= len(texts) and words * 2 < len(texts):
        collection.faults.append(
            f"the texts repeat like a label: {distinct} different ones in {len(texts)} rows, such as "
            f"{_most_frequent(texts)}; name the column of the texts with --text_column"
        )


def _check_speakers(collection: Collection) -> None:
    speakers = [u.speaker for u in collection.utterances if u.speaker]
    distinct, texts = len(set(speakers)), len({u.text for u in collection.utterances})
    if len(speakers) >= FEWEST_ROWS and 2 * distinct > len(speakers):
        collection.faults.append(
            f"the speakers are as varied as texts: {distinct} speakers in {len(speakers)} rows with {texts} texts, "
            f"such as {_most_frequent(speakers)}; name the column of the speakers with --speaker_from"
        )


def _most_frequent(values: Sequence[str]) -> str:
    return ", ".join(repr(value[:40]) for value, _ in Counter(values).most_common(3))


def _check_spelling(collection: Collection) -> None:
    """Refuse texts that are how a program writes a text: in a wrong encoding, in escapes, as a list or a structure."""
    for utterance in collection.utterances:
        text = utterance.text
        if text[:1] in ("[", "{") and text[-1:] in ("]", "}") and re.search("['\"]", text):
            collection.refuse(utterance.where, f"the text is {text!r}, a list or structure; write the text alone")
        elif right := _repaired(text):
            collection.refuse(
                utterance.where,
                f"the text is {text!r}, which is in escapes or in a wrong encoding; it should be {right!r}",
            )


def _repaired(text: str) -> str | None:
    """Return the Arabic of a text that was read in a Western encoding, or whose letters are escapes; else None."""
    found = []
    if re.search("[\u00d8\u00d9][\u0080-\u00ff\u0152-\u2122]", text):
        for encoding in ("cp1252", "latin-1"):
            with suppress(UnicodeError):
                found.append(text.encode(encoding).decode("utf-8"))
    if re.search(r"\\u0[67][0-9a-fA-F]{2}", text):
        found.append(re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text))
    if re.search("&#x?[0-9a-fA-F]{3,4};", text):
        found.append(html.unescape(text))
    return next((right for right in found if re.search("[\u0600-\u06ff]", right)), None)


def _check_one_voice(collection: Collection) -> None:
    """Add a fault if all utterances were taken for one voice, but their names form groups."""
    files = [u.file for u in collection.utterances if u.file is not None]
    for flag, group_of in (("name", lambda path: first_part(path.name)), ("folder", lambda path: str(path.parent))):
        groups = _groups(files, group_of)
        if len(groups) > 1 and 2 * len(groups) <= len(files):
            shown = ", ".join(Path(group).name for group in sorted(groups)[:3])
            collection.faults.append(
                f"one voice was taken for all {len(files)} clips, but their {flag}s form {len(groups)} groups, such "
                f"as {shown}; give --speaker_from {flag} if these are speakers, or --speaker_from one"
            )
            return


def _groups(files: Sequence[Path], group_of: Callable[[Path], str]) -> set[str]:
    groups = {group_of(path) for path in files}
    # LJSpeech itself is known: its names begin with the number of a chapter.
    return set() if all(re.fullmatch("LJ[0-9]{3}", group) for group in groups) else groups
