"""Test sets: sentences to be spoken, each with the voice that is wanted and, where there is one, its true recording.

A set is a file of one of these forms:

- ChatML records, as in training data. The text of the trained clip is spoken, and the clip is its true recording.
  ``misc.dialect`` names a dialect.
- A manifest as ``tools.synthesize`` takes it. Here an entry may also have ``speaker``, ``dialect``, ``recording``,
  ``kind`` and ``scene``.
- A list with one sentence a line (``sentence_lists.py``): with named columns, of Seed-TTS, or of MiniMax.

Sentences without references (``arabic_sentences.tsv``) take their voices from a further set: each sentence takes the
next speaker in turn, and each time a speaker comes up again he speaks after the next of his clips. A clip whose speaker
is not known counts as a speaker of its own.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from arabic_text.normalise import normalise_text
from arabic_voice_cloning_dataset import read_json_records
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.cloning_example import reference_text_of_messages, text_to_speak
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import raise_if_any
from boson_multimodal.prompt_template import PromptForm, PromptTemplate
from voice_cloning.evaluation.sentence_lists import read_sentence_list
from voice_cloning.speech.requests import (
    SpeechRequest,
    entry_problems,
    form_problems,
    name_problems,
    read_entries,
    request_of_text,
    text_problems,
)

FURTHER_KEYS = ("speaker", "dialect", "recording", "kind", "scene")
"""What an entry of a test set may have beside the keys of a manifest."""
JSON_SUFFIXES = (".json", ".jsonl")
OUR_SENTENCES = Path(__file__).with_name("arabic_sentences.tsv")
"""100 Arabic sentences by dialect and kind. They have no references."""


@dataclass(frozen=True)
class TestItem:
    """A sentence of a test set.

    Attributes:
        name: unique in the set; it becomes the name of a file.
        text: what is to be spoken and is scored.
        request: the prompt, as ``VoiceCloner`` takes it.
        reference: the clip whose voice is wanted: the last before the text; None if the prompt has none.
        recording: the true recording of the text, or None. Its file need not exist: codes may stand for it.
        base_dir: the folder to which paths of the two clips are relative.
        speaker, dialect: as the set names them, or None.
        reference_text: what is said in the reference; None if that is not known, or if the prompt has several.
        kind: the kind of the sentence (``question``, ``names``), or None.
    """

    __test__: ClassVar[bool] = False  # pytest takes it for a class of tests else
    name: str
    text: str
    request: SpeechRequest
    reference: AudioContent | None
    recording: AudioContent | None
    base_dir: Path
    speaker: str | None
    dialect: str | None
    reference_text: str | None
    kind: str | None = None


@dataclass(frozen=True)
class TestSet:
    """A test set.

    Attributes:
        name: the name of its file.
        kind: ``chatml``, ``manifest``, ``list`` or ``sentences`` (without references of their own).
        items: its sentences, in the order of the file.
        notes: what was guessed or left out, to be printed.
    """

    __test__: ClassVar[bool] = False
    name: str
    kind: str
    items: tuple[TestItem, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """The sentences of a file as they are written.

    Attributes:
        raws: (place, entry of a manifest or ChatML record).
        kind: the form of the file.
        problems, notes: see ``SentenceList``.
    """

    raws: list[tuple[str, Any]]
    kind: str
    problems: list[str]
    notes: list[str]

    @property
    def have_references(self) -> bool:
        """Whether any of them says in which voice it is to be spoken."""
        keys = {"messages", "reference", "reference_text"}
        return any(not isinstance(raw, dict) or keys & raw.keys() for _, raw in self.raws)


def read_test_set(
    path: Path,
    prompt_style: PromptForm,
    text_normalisation: str = "none",
    references: Path | None = None,
) -> TestSet:
    """Read a test set in any of its forms. Its clips are not read: codes may stand for them.

    Args:
        path: its file.
        prompt_style: the turns of the prompts (``PROMPT_STYLES``), or a template for them.
        text_normalisation: how texts are normalised (``TEXT_NORMALISATIONS``).
        references: a set whose clips give the voices of sentences without references; a set with references leaves it
            aside and says so.

    Raises:
        InputError: if a file cannot be read; else listing everything that is wrong with the set and its references.
    """
    rows = _read_rows(path)
    problems, notes = list(rows.problems), list(rows.notes)
    if rows.have_references or not rows.raws:
        items = _items(rows, path, prompt_style, text_normalisation, problems)
        kind = rows.kind
        if references is not None:
            notes.append(f"{references}: left aside, because {path.name} has references of its own")
    else:
        items = _items_in_voices(rows, path, references, prompt_style, text_normalisation, problems, notes)
        kind = "sentences"
    raise_if_any(f"{path}: not usable as a test set", problems)
    return TestSet(path.name, kind, tuple(_with_speakers(items, notes)), tuple(notes))


def _read_rows(path: Path) -> Rows:
    if path.suffix.lower() in JSON_SUFFIXES:
        raws = read_json_records(path)
        kind = "chatml" if any(isinstance(raw, dict) and "messages" in raw for raw in raws) else "manifest"
        return Rows([("", raw) for raw in raws], kind, [], [])
    found = read_sentence_list(path)
    return Rows(list(found.rows), "list", found.problems, found.notes)


def _items(
    rows: Rows, path: Path, prompt_style: PromptForm, text_normalisation: str, problems: list[str]
) -> list[TestItem]:
    """Return the sentences that can be spoken in voices of their own. Add what is wrong with the others."""
    raws = [raw for _, raw in rows.raws]
    entries = read_entries(
        raws, path.parent, prompt_style, text_normalisation=text_normalisation, further_keys=FURTHER_KEYS
    )
    items = []
    for (where, raw), entry in zip(rows.raws, entries, strict=True):
        found = list(entry.problems)
        if entry.request is not None and "messages" in raw:
            found += text_problems(text_to_speak(entry.request.pieces[0].sample), "text")
        problems += [f"{where}{', ' * bool(where)}{entry.name}: {problem}" for problem in found]
        if entry.request is None or found:
            continue
        if "messages" in raw:
            items.append(_item_of_record(entry.request))
        else:
            text = normalise_text(raw["text"], text_normalisation).strip()
            items.append(_item_of_entry(raw, text, entry.request, raw["reference_text"]))
    return items


def _item_of_record(request: SpeechRequest) -> TestItem:
    sample = request.pieces[0].sample
    references = request.references()
    target = next(clip for turn, clip in sample.clips() if sample.trains(turn))
    stated, dialect = sample.misc.get("ref_transcript"), sample.misc.get("dialect")
    # With several references, neither says which clip the text belongs to.
    known = (isinstance(stated, str) and stated) or reference_text_of_messages(sample)
    reference_text = (known or None) if len(references) == 1 else None
    return TestItem(
        name=request.name,
        text=text_to_speak(sample),
        request=request,
        reference=references[-1] if references else None,
        recording=target,
        base_dir=request.base_dir,
        speaker=sample.speaker,
        dialect=None if dialect is None else str(dialect),
        reference_text=reference_text,
    )


def _item_of_entry(raw: dict[str, Any], text: str, request: SpeechRequest, reference_text: str) -> TestItem:
    recording = raw.get("recording")
    return TestItem(
        name=request.name,
        text=text,
        request=request,
        reference=request.references()[-1],
        recording=None if recording is None else AudioContent(audio_url=recording, where="recording"),
        base_dir=request.base_dir,
        speaker=raw.get("speaker"),
        dialect=raw.get("dialect"),
        reference_text=reference_text.strip(),
        kind=raw.get("kind"),
    )


def _items_in_voices(
    rows: Rows,
    path: Path,
    references: Path | None,
    prompt_style: PromptForm,
    text_normalisation: str,
    problems: list[str],
    notes: list[str],
) -> list[TestItem]:
    """Return sentences without references, each in a voice of ``references``. Add what is wrong with both."""
    readable = []
    names: set[str] = set()
    for number, (where, raw) in enumerate(rows.raws):
        name, found = entry_problems(raw, number, text_normalisation, ("id", "text"), FURTHER_KEYS)
        found += name_problems(name, names)
        names.add(name)
        problems += [f"{where}{', ' * bool(where)}{name}: {problem}" for problem in found]
        if not found:
            readable.append((name, raw))
    if references is None:
        problems.append(
            "its sentences have no references; name a set whose clips give the voices (--references: a manifest, "
            "ChatML records or a list with references)"
        )
        return []
    # A template may need a dialect, which those who only give their voices need not have.
    style = "voice_clone" if isinstance(prompt_style, PromptTemplate) else prompt_style
    turns = _voices(references, style, text_normalisation, problems)
    if not turns:
        return []
    items = []
    for number, (name, raw) in enumerate(readable):
        clips = turns[number % len(turns)]
        voice = clips[number // len(turns) % len(clips)]
        fields = {**raw, "speaker": voice.speaker}
        if of_form := form_problems(prompt_style, fields):
            problems += [f"{name}: {problem}" for problem in of_form]
            continue
        prompt = raw["text"], voice.reference, voice.reference_text, prompt_style
        request = request_of_text(name, *prompt, voice.base_dir, text_normalisation=text_normalisation, fields=fields)
        text = normalise_text(raw["text"], text_normalisation).strip()
        own = {**raw, "speaker": voice.speaker, "recording": None}
        if "recording" in raw:  # relative to the set, while the reference is relative to the set of references
            own["recording"] = os.path.abspath(path.parent / raw["recording"])
        items.append(_item_of_entry(own, text, request, voice.reference_text))
    clips = sum(map(len, turns))
    notes.append(f"voices: {len(turns)} speakers in turn, {clips} clips of {references.name}")
    return items


def _voices(path: Path, prompt_style: str, text_normalisation: str, problems: list[str]) -> list[list[TestItem]]:
    """Return the items of each speaker that have distinct references, in the order of the file."""
    rows = _read_rows(path)
    found = [*rows.problems]
    if not rows.have_references:
        found.append("its sentences have no references, so they give no voice")
        items = []
    else:
        items = _items(rows, path, prompt_style, text_normalisation, found)
    untold = "it has no reference, or not one reference whose text is known, so it gives no voice"
    found += [f"{item.name}: {untold}" for item in items if not _is_voice(item)]
    problems += [f"{path}: {problem}" for problem in found]
    distinct = {(item.reference, item.base_dir): item for item in reversed(items) if _is_voice(item)}
    speakers: dict[Any, list[TestItem]] = {}
    for item in reversed(distinct.values()):
        speakers.setdefault(item.speaker or item.reference, []).append(item)
    return list(speakers.values())


def _is_voice(item: TestItem) -> bool:
    return item.reference is not None and item.reference_text is not None


def _with_speakers(items: list[TestItem], notes: list[str]) -> list[TestItem]:
    """Name the speakers of a set that names none after the clips, if sentences share them. Say so."""
    clips = {Clip.of(item.reference, item.base_dir) for item in items if item.reference is not None}
    if any(item.speaker or item.reference is None for item in items) or len(clips) == len(items):
        return items
    notes.append(f"speakers: none is named, so each of the {len(clips)} reference clips counts as one")
    return [replace(item, speaker=_clip_name(item)) for item in items]


def _clip_name(item: TestItem) -> str:
    clip = Clip.of(item.reference, item.base_dir)
    cut = "" if not clip.offset and clip.duration is None else f" from {clip.offset:g} s"
    return (clip.source.stem if isinstance(clip.source, Path) else clip.name) + cut
