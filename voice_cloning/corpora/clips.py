"""Reads folders of ``NAME.wav`` with ``NAME.txt`` beside it."""

from collections import Counter
from pathlib import Path

from boson_multimodal.errors import InputError
from voice_cloning.corpora.cell_values import WrongValue
from voice_cloning.corpora.columns import Columns
from voice_cloning.corpora.source_files import (
    AUDIO_SUFFIXES,
    OTHER_AUDIO_SUFFIXES,
    list_files,
    normal,
    read_lines,
)
from voice_cloning.corpora.speaker_sources import FOLDER, PLACES, speaker_at
from voice_cloning.corpora.utterances import Collection, Utterance


def read_clips(source: Path, columns: Columns, encoding: str | None = None) -> Collection:
    """Read a folder and its subfolders of ``NAME.wav`` with ``NAME.txt`` beside it.

    The speaker is the name of the clip's folder, or what ``--speaker_from`` names.
    """
    speaker_from = columns.speaker_from or FOLDER
    if speaker_from not in PLACES:
        raise InputError(
            f"--speaker_from {speaker_from}: for clips with text files it must be video, file, cluster, folder, name "
            "or one"
        )
    collection = Collection("clips", speaker_is_guessed=columns.speaker_from is None)
    listing = list_files(source)
    collection.faults += listing.faults
    collection.aside += listing.aside
    audio = [path for path in listing.files if path.suffix.lower() in AUDIO_SUFFIXES]
    texts = {_key(path): path for path in listing.files if path.suffix.lower() == ".txt"}
    encodings: Counter[str] = Counter()
    for path in audio:
        if (text_path := texts.get(_key(path))) is None:
            collection.refuse(
                str(path), f"no {path.with_suffix('.txt').name} beside it; write there what the clip says"
            )
            continue
        try:
            lines = read_lines(text_path, encoding)
        except InputError as error:
            collection.refuse(str(text_path), f"not readable as UTF-8 text ({error})")
            continue
        if lines.problems:
            collection.refuse(str(text_path), f"not readable as UTF-8 text ({lines.problems[0][1]})")
            continue
        encodings[lines.encoding] += 1
        folder = path.parent.relative_to(source)
        try:
            speaker = _speaker(speaker_from, folder / path.name, source)
        except WrongValue as error:
            collection.refuse(str(path), str(error))
            continue
        text = " ".join(line.text for line in lines)
        collection.add(Utterance((folder / path.stem).as_posix(), path, text, normal(speaker), str(text_path)))
    spoken = {_key(path) for path in audio}
    for key, path in sorted(texts.items()):
        if key not in spoken:
            collection.refuse(str(path), "no audio file of that name beside it")
    for path in listing.files:
        if path.suffix.lower() in OTHER_AUDIO_SUFFIXES:
            collection.refuse(str(path), "this format cannot be read; convert it to FLAC or WAV")
    known = (*AUDIO_SUFFIXES, *OTHER_AUDIO_SUFFIXES, ".txt")
    if other := [path.name for path in listing.files if path.suffix.lower() not in known]:
        shown = ", ".join(dict.fromkeys(other[:5]))
        collection.facts.append(f"files that are neither clips nor texts: {len(other)} ({shown})")
    collection.facts += [
        "clips with a text file of the same name beside each",
        "encoding of the texts: " + (", ".join(f"{name} ({n})" for name, n in sorted(encodings.items())) or "no text"),
        f"speaker: {PLACES[speaker_from]}",
    ]
    return collection


def _speaker(speaker_from: str, clip: Path, source: Path) -> str:
    """Return the speaker of a clip below the source. Raises WrongValue if its name holds no id of a video."""
    if speaker_from != FOLDER:
        return speaker_at(speaker_from, clip.as_posix())
    # The whole path, because folders of different speakers may have one name.
    return clip.parent.as_posix() if clip.parent.parts else source.resolve().name


def _key(path: Path) -> str:
    """Return the path without its suffix, in the normal form of names: what a clip and its text share."""
    return normal(str(path.with_suffix("")))
