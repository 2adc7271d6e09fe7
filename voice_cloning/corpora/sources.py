"""Detects the form of a source, reads it, and checks that what was read adds up."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from arabic_text.buckwalter import from_buckwalter, looks_like_buckwalter
from boson_multimodal.errors import InputError
from voice_cloning.corpora.arrow import holds_data_set, read_data_set
from voice_cloning.corpora.audiofolder import metadata_files, read_audiofolder
from voice_cloning.corpora.card_licences import licences_of_source
from voice_cloning.corpora.clips import read_clips
from voice_cloning.corpora.columns import Columns, roles_of_header
from voice_cloning.corpora.contradictions import find_contradictions
from voice_cloning.corpora.kaldi import KALDI_FILES, read_kaldi
from voice_cloning.corpora.known_corpora import ARVOICE, ARVOICE_SYNTHESIS, licence_facts
from voice_cloning.corpora.side_files import take_speakers_from_side_files
from voice_cloning.corpora.source_files import AUDIO_SUFFIXES, is_no_data, list_files, normal
from voice_cloning.corpora.speaker_sources import CLUSTER
from voice_cloning.corpora.table_choice import TABLE_SUFFIXES, known_tables_below, tables_in
from voice_cloning.corpora.table_lines import names_its_columns, open_table
from voice_cloning.corpora.tables import read_table
from voice_cloning.corpora.utterances import Channel, Collection, Utterance, measure, speakers_of
from voice_cloning.corpora.webdataset import is_shard, read_shards

LJSPEECH_TABLE = "metadata.csv"
FORMS: dict[str, Callable[[Path, Columns, str | None], Collection]] = {
    "clips": read_clips,
    "ljspeech": read_table,
    "table": read_table,
    "audiofolder": read_audiofolder,
    "huggingface": read_data_set,
    "webdataset": read_shards,
    "kaldi": read_kaldi,
}
USUAL = Columns()
"""Columns with usual names."""
LISTING_FORMS = ("clips", "audiofolder", "huggingface", "webdataset")
SHOWN_SAMPLES = 2
LONGEST_SHOWN_TEXT = 80


def read_source(source: Path, form: str, columns: Columns, encoding: str | None = None) -> Collection:
    """Return the utterances of a source with their lengths, and all problems and faults that were found.

    Raises:
        InputError: if the source cannot be read at all.
    """
    form = detect_form(source, columns, encoding) if form == "auto" else form
    collection = FORMS[form](source, columns, encoding)
    collection.form, collection.licences = form, licences_of_source(source)
    if collection.form not in LISTING_FORMS and source.is_dir():  # the others list all files below the source
        collection.aside += sorted(path for path in source.iterdir() if is_no_data(path.name))
    if collection.speaker_is_guessed and form not in ("huggingface", "audiofolder", "webdataset"):
        folder = source.parent if source.is_file() else source
        take_speakers_from_side_files(collection, folder, collection.table)
    _write_in_arabic_letters(collection)
    _name_synthesis(collection)
    collection.check_repeats()
    measure(collection)
    find_contradictions(collection, columns)
    for utterance in collection.utterances:
        if any("\ud800" <= character <= "\udfff" for character in str(utterance.file or "")):
            collection.refuse(utterance.where, f"{str(utterance.file)!r}: the name is not UTF-8; rename it")
    return collection


def _write_in_arabic_letters(collection: Collection) -> None:
    """Turn the texts into Arabic letters if they are in Buckwalter's transliteration, and say so."""
    try:
        if not looks_like_buckwalter([utterance.text for utterance in collection.utterances]):
            return
    except InputError as error:
        collection.faults.append(str(error))
        return
    example = None
    for i, utterance in enumerate(collection.utterances):
        try:
            text = from_buckwalter(utterance.text)
        except ValueError as error:
            collection.refuse(utterance.where, str(error))
            continue
        example = example or f"{utterance.text[:LONGEST_SHOWN_TEXT]} -> {text[:LONGEST_SHOWN_TEXT]}"
        collection.utterances[i] = replace(utterance, text=text)
    if example:
        collection.facts.append(f"texts in Buckwalter's transliteration, turned into Arabic letters: {example}")


def _name_synthesis(collection: Collection) -> None:
    """Say which speakers are voices of a synthesis and no people, if the corpus has such."""
    made = sorted(name for name in speakers_of(collection.utterances) if name.startswith(ARVOICE_SYNTHESIS))
    if collection.corpus is ARVOICE and made:
        shown = ", ".join(made[:SHOWN_SAMPLES])
        collection.facts.append(f"speakers that are voices of a synthesis: {len(made)} ({shown})")


def has_no_speakers(collection: Collection) -> bool:
    """Return whether the speakers are yet to be named by their voices (``--speaker_from cluster``)."""
    return speakers_of(collection.utterances) == {CLUSTER}


def overview(source: Path, collection: Collection, licence: str | None = None) -> str:
    """Return what was taken for what, for the user to read before anything is written.

    Args:
        licence: the licence that the user states.
    """
    usable = collection.usable()
    hours = sum(u.seconds for u in usable) / 3600
    lines = [f"{source}: read as {collection.form}", *(f"  {fact}" for fact in collection.facts)]
    lines += [f"  {fact}" for fact in licence_facts(collection.corpus, licence, collection.licences)]
    voices = "grouped next" if has_no_speakers(collection) else len(speakers_of(usable))
    lines.append(f"  {len(usable)} utterances, voices: {voices}, {hours:.2f} h")
    if collection.aside:
        names = ", ".join(dict.fromkeys(path.name for path in collection.aside[:5]))
        lines.append(f"  left aside, because they hold no data: {len(collection.aside)} ({names})")
    if collection.left_aside:
        counts = ", ".join(f"{len(places)} {reason}" for reason, places in collection.left_aside.items())
        lines.append(f"  left aside: {counts}")
    if refused := {where for where, _ in collection.problems}:
        lines.append(f"  entries that cannot be used: {len(refused)}")
    lines += [f"  sample: {_sample(utterance)}" for utterance in usable[:SHOWN_SAMPLES]]
    return "\n".join(lines)


def _sample(utterance: Utterance) -> str:
    text = utterance.text
    shown = f"{text[:LONGEST_SHOWN_TEXT]}..." if len(text) > LONGEST_SHOWN_TEXT else text
    start = utterance.offset or 0.0
    cut = "" if utterance.offset is None else f" from {start:g} to {start + utterance.seconds:g} s"
    if isinstance(utterance.audio, Channel):
        cut += f" of channel {utterance.audio.number}"
    file = utterance.where if utterance.file is None else utterance.file
    speaker = "no speaker yet" if utterance.speaker == CLUSTER else f"speaker {utterance.speaker}"
    return f"{file}{cut} ({utterance.seconds:.2f} s), {speaker}: {shown}"


def detect_form(source: Path, columns: Columns = USUAL, encoding: str | None = None) -> str:
    """Return the form of a source, which its files show.

    Raises:
        InputError: if the source does not exist or has none of the forms.
    """
    if source.is_file():
        if source.suffix.lower() == ".parquet":
            return "huggingface"
        return "webdataset" if is_shard(source) else _form_of_table(source, columns, encoding)
    if not source.is_dir():
        raise InputError(
            f"{source}: no such file or folder; give the folder of the clips, or the table that names them"
        )
    if (source / KALDI_FILES[0]).is_file():
        return "kaldi"
    listing = list_files(source)
    if holds_data_set(listing.files):
        return "huggingface"
    tables = tables_in(source)
    has_texts = _clips_have_texts(listing.files)
    has_shards = any(is_shard(path) for path in listing.files)
    if tables and has_shards and not has_texts and not any(_names_clips(table, encoding) for table in tables):
        return "webdataset"
    if tables and not (has_texts and not any(_names_clips(table, encoding) for table in tables)):
        return _form_of_table(tables[0], columns, encoding) if len(tables) == 1 else "table"  # which names them all
    if has_texts:
        return "clips"
    if known_tables_below(source, encoding):
        return "table"
    if not tables and metadata_files(listing.files):
        return "audiofolder"
    if has_shards:
        return "webdataset"
    if any(path.suffix.lower() == ".txt" for path in listing.files):
        return "clips"
    deeper = [path.relative_to(source).as_posix() for path in listing.files if path.suffix.lower() in TABLE_SUFFIXES]
    hint = f"; give one of the tables in its folders: {', '.join(deeper[:5])}" if deeper else ""
    faults = "".join(f"\n  {fault}" for fault in listing.faults)
    raise InputError(
        f"{source}: looks like none of {list(FORMS)}: it has no text files beside clips, no table, no data set, no "
        f"shard and no wav.scp{hint}{faults}"
    )


def _form_of_table(table: Path, columns: Columns, encoding: str | None) -> str:
    if table.name == LJSPEECH_TABLE and not names_its_columns(table, columns, encoding):
        return "ljspeech"
    return "table"


def _clips_have_texts(files: Sequence[Path]) -> bool:
    """Return whether most clips have a text file of their name."""
    clips = {normal(str(path.with_suffix(""))) for path in files if path.suffix.lower() in AUDIO_SUFFIXES}
    texts = {normal(str(path.with_suffix(""))) for path in files if path.suffix.lower() == ".txt"}
    return bool(clips) and 2 * len(clips & texts) >= len(clips)


def _names_clips(table: Path, encoding: str | None) -> bool:
    """Return whether a table names clips and their texts itself, so that it is no side file."""
    try:
        found = open_table(table, USUAL, encoding)
        if found.has_header:
            roles_of_header(found.header, Columns(speaker_from="one"), str(table))
    except InputError:
        return False
    return bool(found.rows)
