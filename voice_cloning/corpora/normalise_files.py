"""Normalises the texts of ChatML files, and of text files with one text a line."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from arabic_text.ambiguity import AmbiguousReading, find_ambiguous_readings
from arabic_text.diacritics import diacritise, load_diacritiser
from arabic_text.normalise import find_text_issues, normalise_for_speech
from arabic_text.sample_texts import change_record
from arabic_voice_cloning_dataset import parse_record, read_json_records, sample_id_of
from boson_multimodal.data_types import PLACEHOLDER_URLS
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.progress import progress
from voice_cloning.corpora.card_licences import DATA_CARD, carried_card
from voice_cloning.corpora.output_files import refuse_other_content, write_differing

SUFFIXES = (".json", ".jsonl", ".txt")
SHOWN_EXAMPLES = 5
OTHER_CHANGES = "punctuation, signs, spaces"


@dataclass
class NormaliseSummary:
    """The changes to the texts of one file; a repeated text counts each time.

    Attributes:
        texts, changed: number of texts, and number of those that changed.
        kinds: kind of ``arabic_text.TEXT_ISSUES`` -> number of changed texts that had it; ``OTHER_CHANGES`` -> number
            of changed texts that had none.
        examples: a few changed texts, before and after.
        digits_left: sample id or line -> digits that remain.
        words_marked, words_left: words that got marks, and words that did not; see ``diacritics.diacritise``.
        ambiguous: sample id or line, text, and a place of it that can be read in several ways; empty unless asked for.
    """

    texts: int = 0
    changed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)
    digits_left: dict[str, list[str]] = field(default_factory=dict)
    words_marked: int = 0
    words_left: int = 0
    ambiguous: list[tuple[str, str, AmbiguousReading]] = field(default_factory=list)


class TextNormaliser:
    """Normalises texts and counts the changes in ``summary``; ``find_ambiguous`` also finds ambiguous readings."""

    def __init__(self, digits: str, add_marks: Callable[[str], str] | None, find_ambiguous: bool = False) -> None:
        self.summary = NormaliseSummary()
        self._find_ambiguous = find_ambiguous
        self._searched: set[tuple[str, str]] = set()
        self._add_marks = add_marks
        self._normalise = cache(lambda text: normalise_for_speech(text, digits))

    def change(self, text: str, where: str) -> str:
        """Return a text in its form for speech; ``where`` is its sample id or line."""
        summary, changed = self.summary, self._normalise(text)
        if self._add_marks is not None:
            changed, marked, unmarked = diacritise(changed, self._add_marks)
            changed = self._normalise(changed)
            summary.words_marked += marked
            summary.words_left += unmarked
        summary.texts += 1
        if changed != text:
            summary.changed += 1
            summary.kinds.update(list(find_text_issues(text)) or [OTHER_CHANGES])
            if len(summary.examples) < SHOWN_EXAMPLES and (text, changed) not in summary.examples:
                summary.examples.append((text, changed))
        if self._find_ambiguous and (where, text) not in self._searched:
            self._searched.add((where, text))
            summary.ambiguous += [(where, text, place) for place in find_ambiguous_readings(text)]
        digits = find_text_issues(changed).get("digits")
        if digits:
            summary.digits_left.setdefault(where, []).extend(digits)
        return changed


def normalise_file(
    path: Path | str,
    output_dir: Path | str,
    *,
    digits: str = "spell",
    diacritiser: str | None = None,
    overwrite: bool = False,
) -> NormaliseSummary:
    """Write a copy of a file with normalised texts, under the same name, to ``output_dir``.

    Args:
        path: ChatML ``.json`` or ``.jsonl``, or ``.txt`` with one text a line.
        digits: ``spell`` or ``keep``.
        diacritiser: a key of ``DIACRITISERS``, or None.
        overwrite: replace a file with other content.

    Raises:
        InputError: if anything in the file is wrong, with a list of all problems; or if a file with other content
            exists already. In both cases nothing is written.
    """
    path, output_dir = Path(path).expanduser(), Path(output_dir).expanduser()
    outputs = normalised_files([path], output_dir, digits, diacritiser)
    write_outputs(output_dir, outputs, overwrite, normalised_card([path], digits, diacritiser))
    return next(iter(outputs.values()))[1]


Outputs = dict[str, tuple[bytes, NormaliseSummary]]
"""Name of each file in the output folder -> what is to be written to it, and what was done to its texts."""


def normalised_files(
    paths: Sequence[Path], output_dir: Path, digits: str, diacritiser: str | None, find_ambiguous: bool = False
) -> Outputs:
    """Return the content of all outputs; the arguments are those of :class:`TextNormaliser`.

    Raises:
        InputError: listing the problems of all files.
    """
    add_marks = load_diacritiser(diacritiser) if diacritiser else None
    outputs: Outputs = {}
    problems = _name_problems(paths, output_dir)
    for path in paths if not problems else ():
        normaliser = TextNormaliser(digits, add_marks, find_ambiguous)
        try:
            is_text = path.suffix == ".txt"
            content = _lines_of(path, normaliser) if is_text else _records_of(path, output_dir, normaliser)
            outputs[path.name] = content, normaliser.summary
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return outputs


def _name_problems(paths: Sequence[Path], output_dir: Path) -> list[str]:
    names = Counter(path.name for path in paths)
    problems = [f"{path}: must end in {', '.join(SUFFIXES)}" for path in paths if path.suffix not in SUFFIXES]
    problems += [f"{path}: another input has the name {path.name} too" for path in paths if names[path.name] > 1]
    in_place = [path for path in paths if os.path.realpath(path) == os.path.realpath(output_dir / path.name)]
    return problems + [f"{path}: the output would replace the input; give another --output_dir" for path in in_place]


def _records_of(path: Path, output_dir: Path, normaliser: TextNormaliser) -> bytes:
    records, problems = [], []
    for number, raw in enumerate(progress(read_json_records(path), path.name, unit="sample")):
        sample_id = sample_id_of(raw, number)
        _, found = parse_record(raw, "as_written")
        if not found:
            changed = change_record(raw, lambda text, where=sample_id: normaliser.change(text, where))
            _, found = parse_record(changed, "as_written")
            found = [f"{problem}, after normalisation" for problem in found]
            records.append(with_paths(changed, path.parent, output_dir))
        problems += [f"{sample_id}: {problem}" for problem in found]
    raise_if_any(f"{path}: invalid samples", problems)
    if path.suffix == ".jsonl":
        return "".join(_json(record, indent=None) for record in records).encode("utf-8")
    return _json(records, indent=1).encode("utf-8")


def _json(value: Any, indent: int | None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if re.search("[\ud800-\udfff]", text):  # lone surrogates, which UTF-8 cannot hold
        text = json.dumps(value, indent=indent)
    return text + "\n"


def with_paths(record: dict[str, Any], old_folder: Path, new_folder: Path) -> dict[str, Any]:
    """Return a record whose paths, relative to ``old_folder``, lead to the same files from ``new_folder``."""
    messages = []
    for message in record["messages"]:
        content = message["content"]
        if isinstance(content, list):
            content = [_part_with_path(part, old_folder, new_folder) for part in content]
        else:
            content = _part_with_path(content, old_folder, new_folder)
        messages.append({**message, "content": content})
    return {**record, "messages": messages}


def _part_with_path(part: Any, old_folder: Path, new_folder: Path) -> Any:
    url = part.get("audio_url") if isinstance(part, dict) and part["type"] == "audio" else None
    if not url or url in PLACEHOLDER_URLS or os.path.isabs(os.path.expanduser(url)):
        return part
    # Links to folders are resolved: ".." after a link leads to another folder than the path shows. A clip's name stays.
    folder = os.path.realpath(old_folder / os.path.dirname(url))
    moved = os.path.relpath(os.path.join(folder, os.path.basename(url)), os.path.realpath(new_folder))
    return {**part, "audio_url": moved}


def _lines_of(path: Path, normaliser: TextNormaliser) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    bar = progress(content.removeprefix(b"\xef\xbb\xbf").splitlines(), path.name, unit="line")
    return "".join(f"{line}\n" for line in normalise_lines(bar, path.name, normaliser)).encode("utf-8")


def normalise_lines(lines: Iterable[bytes], name: str, normaliser: TextNormaliser) -> Iterable[str]:
    """Yield each line normalised; a text that becomes several lines is joined into one.

    Raises:
        InputError: at the first line that is not UTF-8.
    """
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: line {number} is not UTF-8 ({error.reason})") from error
        yield normaliser.change(text, f"line {number}").replace("\n", " ")


def ambiguity_report(summaries: Iterable[tuple[str, NormaliseSummary]]) -> bytes:
    """Return a JSON line for each place that can be read in several ways; ``summaries`` are by the name of the file."""
    lines = [
        _json({"file": name, "where": where, "text": text, **asdict(place)}, indent=None)
        for name, summary in summaries
        for where, text, place in summary.ambiguous
    ]
    return "".join(lines).encode("utf-8")


def normalised_card(paths: Sequence[Path], digits: str, diacritiser: str | None) -> bytes | None:
    """Return the data card for normalised files: the cards beside the ChatML files, with their licences.

    The arguments are those of :func:`normalised_files`. Files with one text a line are no training data.

    Raises:
        InputError: if a card cannot be read.
    """
    marks = "" if diacritiser is None else f", and vowel marks added with {diacritiser}"
    told = f"## Normalised\n\n`prepare_data normalise` normalised the texts: digits `{digits}`{marks}."
    return carried_card([path for path in paths if path.suffix != ".txt"], told)


def write_outputs(output_dir: Path, outputs: Outputs, overwrite: bool, card: bytes | None) -> None:
    """Write the files and the data card that do not exist yet, and with ``overwrite`` also those that differ."""
    files = [] if card is None else [(DATA_CARD, card)]
    files += [(name, content) for name, (content, _) in outputs.items()]
    if not overwrite:
        refuse_other_content(output_dir, files)
    write_differing(output_dir, files)
