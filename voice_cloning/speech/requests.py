"""Requests for speech: a text with a reference clip, or a ChatML record like those of the training data.

A manifest is a ``.json`` list, or a ``.jsonl`` file with one entry per line. An entry is either ::

    {"id": "news_01", "text": "...", "reference": "voices/amal.wav", "reference_text": "what is said in it"}

or a ChatML record in the trainer's format. Of a record, the trained clip is spoken; the audio of that clip is not read.
For a prompt template, an entry may also have ``speaker``, ``dialect`` and ``scene``; a record has ``speaker``,
``misc.dialect`` and ``misc.scene``.
Paths are relative to the manifest. The id is the name of the output.
"""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arabic_text.normalise import normalise_text
from arabic_voice_cloning_dataset import parse_record, read_json_records, sample_id_of
from boson_multimodal.audio_processing.clips import Waveform, frames_of, read_waveform
from boson_multimodal.audio_processing.codes_file import CodesFiles, codes_name
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import clips_before_target, text_problem
from boson_multimodal.cloning_example import VoiceCloningExample, text_to_speak
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.data_types import AudioContent, ChatMLSample
from boson_multimodal.errors import InputError, listed
from boson_multimodal.prompt_template import RECORD_FIELDS, PromptForm, PromptTemplate
from voice_cloning.speech.text_pieces import LETTERS_PER_PIECE, cut_text, has_words

ENTRY_KEYS = ("id", "text", "reference", "reference_text")
"""What an entry must have. For a prompt template it may also have its fields (``RECORD_FIELDS``)."""
RUNAWAY_MARK = ".runaway"
"""The end of a runaway's file name, before ``.wav``."""
LONGEST_ID_BYTES = 200
"""A file name has at most 255 bytes, including the suffixes that are added to the id."""
USUAL_REFERENCE_SECONDS = (3.0, 10.0)
WARNED_OF = 3
"""The number of references of unusual length that a warning lists."""


@dataclass(frozen=True)
class Piece:
    """The request of one prompt.

    Attributes:
        text: the words to speak.
        sample: the conversation. Its first trained clip is spoken; the audio of that clip need not exist.
    """

    text: str
    sample: ChatMLSample


@dataclass(frozen=True)
class SpeechRequest:
    """The request of one output.

    Attributes:
        name: the name of the output, in messages and as file name.
        pieces: the pieces, which are spoken one after the other.
        base_dir: the folder to which paths of clips are relative.
        is_record: whether it is a ChatML record; else its prompt was made of a text.
    """

    name: str
    pieces: tuple[Piece, ...]
    base_dir: Path
    is_record: bool = False

    def references(self) -> list[AudioContent]:
        """Return the clips before the spoken clip, piece by piece."""
        return [content for piece in self.pieces for content in clips_before_target(piece.sample)]


@dataclass(frozen=True)
class ManifestEntry:
    """An entry of a manifest.

    Attributes:
        name: its id, or its number in the file.
        request: what it asks for; None if it cannot be read.
        problems: everything that is wrong with it.
    """

    name: str
    request: SpeechRequest | None
    problems: list[str]


def request_of_text(
    name: str,
    text: str,
    reference: AudioContent,
    reference_text: str,
    prompt_style: PromptForm,
    base_dir: Path = Path(),
    letters_per_piece: int = LETTERS_PER_PIECE,
    text_normalisation: str = "none",
    fields: Mapping[str, str | None] | None = None,
) -> SpeechRequest:
    """Ask for a text in a reference's voice; a long one in pieces (``cut_text``), each after the same reference.

    Args:
        fields: values for a prompt template (``RECORD_FIELDS``); they may hold other names too.
    """
    known = fields or {}
    misc = {field: known[field] for field in RECORD_FIELDS if known.get(field) is not None}
    text, reference_text = (normalise_text(words, text_normalisation) for words in (text, reference_text))
    pieces = []
    for words in cut_text(text, letters_per_piece):
        example = VoiceCloningExample(reference_text.strip(), reference, words, AudioContent())
        pieces.append(Piece(words, example.conversation(prompt_style, misc.get("speaker"), misc)))
    return SpeechRequest(name, tuple(pieces), base_dir)


def read_manifest(
    path: Path, prompt_style: PromptForm, letters_per_piece: int = LETTERS_PER_PIECE, text_normalisation: str = "none"
) -> tuple[list[SpeechRequest], list[str]]:
    """Read a manifest. Return its requests and a list of every problem with its entries.

    Raises:
        InputError: if the file is missing, is empty or is not JSON.
    """
    entries = read_entries(read_json_records(path), path.parent, prompt_style, letters_per_piece, text_normalisation)
    problems = [f"{entry.name}: {problem}" for entry in entries for problem in entry.problems]
    return [entry.request for entry in entries if entry.request is not None], problems


def read_entries(
    raws: Iterable[Any],
    base_dir: Path,
    prompt_style: PromptForm,
    letters_per_piece: int = LETTERS_PER_PIECE,
    text_normalisation: str = "none",
    further_keys: Sequence[str] = (),
) -> list[ManifestEntry]:
    """Read the entries of a manifest, each with its own problems.

    Args:
        raws: the entries as JSON gives them.
        base_dir: the folder to which paths of clips are relative.
        further_keys: keys that an entry may have beside ``ENTRY_KEYS``; their values are strings that are not empty.
    """
    entries: list[ManifestEntry] = []
    names: set[str] = set()
    fields = RECORD_FIELDS if isinstance(prompt_style, PromptTemplate) else ()
    allowed = tuple(dict.fromkeys((*further_keys, *fields)))
    for number, raw in enumerate(raws):
        request: SpeechRequest | None = None
        if isinstance(raw, dict) and "messages" in raw:
            name = sample_id_of(raw, number)
            request, found = _request_of_record(raw, name, prompt_style, base_dir, text_normalisation)
        else:
            name, found = entry_problems(raw, number, text_normalisation, further_keys=allowed)
            if not found:
                found = form_problems(prompt_style, raw)
            if not found:
                reference = AudioContent(audio_url=raw["reference"], where="reference")
                prompt = raw["text"], reference, raw["reference_text"], prompt_style
                request = request_of_text(name, *prompt, base_dir, letters_per_piece, text_normalisation, raw)
        entries.append(ManifestEntry(name, request, found + name_problems(name, names)))
        names.add(name)
    return entries


def form_problems(form: PromptForm, fields: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return what a prompt template lacks or cannot use among the fields of an entry; an empty list for a style.

    Args:
        prefix: what stands before the name of a field in messages.
    """
    if not isinstance(form, PromptTemplate):
        return []
    return [problem.message for problem in form.field_problems(fields.get("speaker"), fields, prefix)]


def unused_fields(form: PromptForm, fields: Iterable[str], places: str = "fields.") -> list[str]:
    """Return a problem for each given field that the prompts do not have."""
    used = form.fields if isinstance(form, PromptTemplate) else ()
    return [f"{places}{field}: the prompt has no {{{field}}}; leave it out" for field in fields if field not in used]


def text_problems(text: str, field: str, text_normalisation: str = "none") -> list[str]:
    """Return why a text cannot be spoken, or cannot be the text of a reference; an empty list if it can."""
    normalised = normalise_text(text, text_normalisation)
    if not has_words(text) or not has_words(normalised):
        return [f"{field}: {text!r} has no words; give the text that is spoken"]
    reason = text_problem(text) or text_problem(normalised)
    return [f"{field}: {reason}"] if reason else []


def check_references(
    requests: Sequence[SpeechRequest], codes: CodesFiles | None = None
) -> tuple[dict[Clip, int], list[str]]:
    """Read every reference once. Print warnings about silent references and those of unusual length to stderr.

    Args:
        codes: files of codes. A reference that they hold is not read.

    Returns:
        The number of code frames of each usable reference, and a problem for each of the others.
    """
    frames: dict[Clip, int] = {}
    silent: list[str] = []
    why_not: dict[Clip, str] = {}
    problems: dict[str, None] = {}  # a dict lists each problem once: the pieces of a text share their reference
    for request in requests:
        for content in request.references():
            clip = Clip.of(content, request.base_dir)
            if clip not in frames and clip not in why_not:
                try:
                    if codes is not None and codes.holds(codes_name(content)):
                        frames[clip] = codes.find(None, codes_name(content)).codes_KT.shape[1]
                        continue
                    waveform = _reference(clip)
                    frames[clip] = frames_of(waveform.samples.numel(), waveform.sampling_rate, FRAMES_PER_SECOND)
                    silent += [clip.name] if waveform.is_silent else []
                except InputError as error:
                    why_not[clip] = str(error)
            if clip in why_not:
                problems[f"{request.name}: {content.where}: {why_not[clip]}"] = None
    if silent:
        heading = f"warning: {len(silent)} of {len(frames)} references are silent, so there is no voice to speak with"
        print(*listed(heading, silent), sep="\n", file=sys.stderr)
    _warn_of_lengths(frames)
    return frames, list(problems)


def _reference(clip: Clip) -> Waveform:
    if isinstance(clip.source, Path) and not clip.source.exists():
        raise InputError(f"{clip.name}: no such file; give an audio file of the voice")
    waveform = read_waveform(clip)
    if waveform.seconds * FRAMES_PER_SECOND < 1:
        least = 1 / FRAMES_PER_SECOND
        raise InputError(f"{clip.name}: {waveform.seconds:g} s of audio; a reference has at least {least:g} s")
    return waveform


def _warn_of_lengths(frames: dict[Clip, int]) -> None:
    """Print one line about all references that are shorter or longer than usual for voice cloning."""
    shortest, longest = USUAL_REFERENCE_SECONDS
    seconds = {clip.name: count / FRAMES_PER_SECOND for clip, count in frames.items()}
    unusual = [f"{name} ({s:.1f} s)" for name, s in seconds.items() if not shortest <= s <= longest]
    if unusual:
        shown = ", ".join(unusual[:WARNED_OF]) + (", ..." if len(unusual) > WARNED_OF else "")
        which = f"{len(unusual)} of {len(frames)} references are not {shortest:g} to {longest:g} s long"
        print(f"warning: {which}, the best length for voice cloning: {shown}", file=sys.stderr)


def _request_of_record(
    raw: dict[str, Any], name: str, prompt_style: PromptForm, base_dir: Path, text_normalisation: str
) -> tuple[SpeechRequest | None, list[str]]:
    sample, problems = parse_record(raw, prompt_style, text_normalisation)
    if sample is None or problems:
        return None, [problem.message for problem in problems]
    clips = sum(sample.trains(turn) for turn, _ in sample.clips())
    if clips != 1:
        return None, [f"messages: {clips} clips in trained turns; exactly 1 can be spoken"]
    return SpeechRequest(name, (Piece(text_to_speak(sample), sample),), base_dir, is_record=True), []


def entry_problems(
    raw: Any,
    number: int,
    text_normalisation: str = "none",
    needed: Sequence[str] = ENTRY_KEYS,
    further_keys: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """Return the id of an entry (or its number in the list), and every problem with its fields.

    Args:
        raw: the entry as JSON gives it.
        number: its number in the list, from 0.
        needed: the keys that it must have.
        further_keys: the keys that it may have.
    """
    if not isinstance(raw, dict):
        return f"entry {number}", [f"is {type(raw).__name__}; it must be an object with {list(needed)}"]
    known = [*needed, *further_keys]
    problems = [f"{key}: unknown key; known are {known}" for key in raw if key not in known]
    for key in known:
        if key in raw or key in needed:
            problems += _value_problems(raw, key, text_normalisation)
    name = raw.get("id")
    return name if isinstance(name, str) and name else f"entry {number}", problems


def _value_problems(raw: dict[str, Any], key: str, text_normalisation: str) -> list[str]:
    if not isinstance(raw.get(key), str) or not raw[key]:
        found = f"{raw[key]!r}; it must be a string that is not empty" if key in raw else "missing"
        return [f"{key}: {found}"]
    return text_problems(raw[key], key, text_normalisation) if key in ("text", "reference_text") else []


def name_problems(name: str, taken: Collection[str] = ()) -> list[str]:
    """Return why an id cannot be a file name, or is one of another entry; an empty list if it can be one."""
    problems = ["id: another entry has the same id; each id is the name of a file"] if name in taken else []
    if name.startswith(".") or name.endswith(RUNAWAY_MARK) or any(c in name for c in "/\\") or not name.isprintable():
        problems.append(
            f"id: {name!r}; it becomes a file name: it must not contain slashes, backslashes or control characters, "
            f"start with a point or end with {RUNAWAY_MARK}"
        )
    elif (size := len(name.encode("utf-8", "surrogatepass"))) > LONGEST_ID_BYTES:
        problems.append(f"id: {size} bytes long; a file name may have {LONGEST_ID_BYTES}")
    return problems
