"""Speakers that a file beside the clips names: a JSON, CSV or TSV file with the names of clips and their speakers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError
from voice_cloning.corpora.cell_values import WrongValue
from voice_cloning.corpora.columns import Columns, Roles, speaker_in
from voice_cloning.corpora.source_files import is_no_data, normal, read_lines, stem_of
from voice_cloning.corpora.speaker_sources import SPEAKER_COLUMNS
from voice_cloning.corpora.table_choice import TABLE_SUFFIXES
from voice_cloning.corpora.table_lines import open_table
from voice_cloning.corpora.utterances import Collection, speakers_of

KALDI_SPEAKERS = "utt2spk"
HINT = "give --speaker_from folder, name or one to leave it aside"


def take_speakers_from_side_files(collection: Collection, folder: Path, table: Path | None = None) -> None:
    """Give the utterances the speakers that a file of their folder names for all of them; say so.

    A side file that names speakers for a part of the clips only is a fault. One that names none is said to be left
    aside.
    """
    files = sorted(
        path
        for path in folder.iterdir()
        if path != table and (path.suffix.lower() in TABLE_SUFFIXES or path.name == KALDI_SPEAKERS)
    )
    stems = {u.where: _stem(str(u.file)) for u in collection.utterances if u.file}
    wanted = set(stems.values())
    for path in files:
        if is_no_data(path.name) or not path.is_file():
            continue
        found = _speakers(path, wanted)
        if not found:
            collection.facts.append(f"{path.name}: names no speaker of these clips, and is left aside")
        elif missing := sorted(wanted - found.keys()):
            collection.faults.append(
                f"{path}: names speakers for {len(found)} of {len(wanted)} clips, not for {', '.join(missing[:3])}; "
                f"complete it, or {HINT}"
            )
        else:
            collection.utterances = [
                replace(u, speaker=found[stems[u.where]]) if u.where in stems else u for u in collection.utterances
            ]
            collection.facts = [fact for fact in collection.facts if not fact.startswith("speaker: ")]
            collection.facts.append(f"speaker: {path.name}, which names {len(speakers_of(collection.utterances))}")
            collection.speaker_is_guessed = False
            return


def _speakers(path: Path, stems: set[str]) -> dict[str, str]:
    """Return stem of a clip -> speaker, for the clips that a side file names."""
    try:
        if path.name == KALDI_SPEAKERS:
            pairs = [line.text.split(maxsplit=1) for line in read_lines(path)]
            return {_stem(pair[0]): pair[1].strip() for pair in pairs if len(pair) == 2 and _stem(pair[0]) in stems}
        entries = _entries(json.loads(path.read_text(encoding="utf-8-sig")))
    except (ValueError, RecursionError, OSError):
        try:
            entries = [("", row) for _, row in open_table(path, Columns()).rows]
        except InputError:
            return {}
    found: dict[str, str] = {}
    contradicted: set[str] = set()
    for key, entry in entries:
        names = {name.casefold(): name for name in entry}
        column = next((names[name] for name in SPEAKER_COLUMNS if name in names), None)
        values = [key, *(value for name, value in entry.items() if isinstance(value, str) and name != column)]
        stem = next((stem for value in values if (stem := _stem(value)) in stems), None)
        if column is None or stem is None:
            continue
        try:
            speaker = speaker_in(entry, Roles("", (), column), "")
        except WrongValue:
            continue
        if speaker and found.setdefault(stem, speaker) != speaker:
            contradicted.add(stem)
    return {stem: speaker for stem, speaker in found.items() if stem not in contradicted}


def _entries(value: Any, key: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Return (key, object) of each object in JSON that holds plain values, at any depth."""
    if isinstance(value, list):
        return [entry for item in value for entry in _entries(item, key)]
    if not isinstance(value, dict):
        return []
    inner = [entry for name, item in value.items() for entry in _entries(item, name)]
    plain = {name: item for name, item in value.items() if not isinstance(item, dict | list)}
    own = [(key, plain)] if plain else []
    return own + inner


def _stem(name: str) -> str:
    return normal(stem_of(name))
