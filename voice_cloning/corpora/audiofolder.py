"""Reads audiofolders: folders such as train/ and test/, each with its metadata and the clips that it names."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from boson_multimodal.errors import InputError, raise_if_any
from voice_cloning.corpora.columns import Columns
from voice_cloning.corpora.source_files import AUDIO_SUFFIXES, each_once, list_files
from voice_cloning.corpora.tables import read_table
from voice_cloning.corpora.utterances import Collection

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
"""What Hugging Face's ``datasets`` calls the table of a folder; a metadata.parquet is read as a data set."""

SPLITS = ("train", "test", "valid", "validation", "val", "dev", "eval")


def metadata_files(files: Sequence[Path]) -> list[Path]:
    """Return the tables of folders with audio."""
    spoken = {folder for path in files if path.suffix.lower() in AUDIO_SUFFIXES for folder in path.parents}
    return [path for path in files if path.name in METADATA_FILES and path.parent in spoken]


def read_audiofolder(source: Path, columns: Columns, encoding: str | None = None) -> Collection:
    """Read all metadata files below a folder, each with the clips beside it.

    Raises:
        InputError: naming each table that cannot be read, or whose columns cannot be told apart.
    """
    collection = Collection("audiofolder")
    listing = list_files(source)
    collection.faults += listing.faults
    collection.aside += listing.aside
    problems = []
    for path in metadata_files(listing.files):
        folder = path.parent.relative_to(source).as_posix()
        try:
            found = read_table(path, columns, encoding)
        except InputError as error:
            problems.append((path, str(error)))
            continue
        prefix = "" if folder == "." else f"{folder}/"
        if found.speaker_is_guessed and path.parent.name.casefold() in SPLITS:  # the folder is not that of a voice
            found.utterances = [replace(u, speaker=source.resolve().name) for u in found.utterances]
        collection.utterances += [replace(u, utterance_id=prefix + u.utterance_id) for u in found.utterances]
        collection.problems += found.problems
        collection.corpus = collection.corpus or found.corpus
        for reason, places in found.left_aside.items():
            for where in places:
                collection.leave_aside(reason, where)
        collection.faults += [f"{path}: {fault}" for fault in found.faults]
        collection.facts += [f"folder: {folder}", *found.facts]
    raise_if_any(f"{source}: problems in the tables of this audiofolder", each_once(problems))
    return collection
