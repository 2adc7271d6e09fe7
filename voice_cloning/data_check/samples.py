"""The records of ChatML files as the check sees them: who says what in which clip, and how long the sequence is."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import missing_texts, parse_record, read_json_records, sample_id_of
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import AS_WRITTEN_INSTRUCTION, prepare_chatml_sample
from boson_multimodal.data_types import AudioContent, ChatMLSample, Message, TextContent
from boson_multimodal.errors import InputError
from boson_multimodal.progress import progress

TRAIN, EVAL = "train", "eval"
EVAL_NAMES = {"val", "valid", "validation", "eval", "evaluation", "dev", "test"}
"""Words of a file's name that make it evaluation data."""
ASCII_PER_TOKEN, OTHERS_PER_TOKEN = 5.0, 2.2
"""Characters, where no tokenizer is given. Measured with Llama 3's: 5.3 in our instructions; 2.7 in Arabic news, 2.4 in
single words, 2.3 in dialect, 1.9 with full diacritics."""
TOKENS_PER_TURN = 5
"""Header and end of a turn."""


@dataclass(frozen=True)
class UsedClip:
    """A clip of a sample, and the field that names it."""

    clip: Clip
    where: str
    is_target: bool


@dataclass
class CheckedSample:
    """One record.

    Attributes:
        sample_id: ``misc.sample_id``, else ``record N``; of a second record with that id, its file and number too.
        path: the file.
        side: ``train`` or ``eval``.
        problems: why the record cannot be trained on, by kind.
        target_text, reference_text: what the messages say that the clips say; empty where they do not.
        mismatches: texts of ``misc`` or of the instruction that differ from these.
        tokens: text tokens of its sequence.
    """

    sample_id: str
    path: Path
    side: str
    problems: dict[str, list[str]] = field(default_factory=dict)
    speaker: str | None = None
    clips: list[UsedClip] = field(default_factory=list)
    target_text: str = ""
    reference_text: str = ""
    mismatches: list[str] = field(default_factory=list)
    tokens: int = 0

    @property
    def targets(self) -> list[UsedClip]:
        return [used for used in self.clips if used.is_target]

    @property
    def references(self) -> list[UsedClip]:
        return [used for used in self.clips if not used.is_target]


def side_of(path: Path, eval_files: Sequence[Path]) -> str:
    """Whether a file is trained on: one that is named as evaluation data is not, nor one whose name says so."""
    words = set(re.findall("[a-z]+", path.stem.lower()))
    return EVAL if path in eval_files or words & EVAL_NAMES else TRAIN


def read_samples_of(
    files: Sequence[Path],
    eval_files: Sequence[Path],
    prompt_style: str,
    text_normalisation: str,
    tokenizer: PreTrainedTokenizerBase | None,
) -> list[CheckedSample]:
    """Every record of the files, in order.

    Raises:
        InputError: naming every file that is missing, empty or not JSON.
    """
    samples, seen, unreadable = [], set(), []
    for path in files:
        try:
            records = read_json_records(path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        for number, raw in enumerate(progress(records, f"reading {path.name}", unit="sample")):
            sample_id = sample_id_of(raw, number)
            if sample_id in seen:
                sample_id = f"{sample_id} ({path.name}, record {number})"
            seen.add(sample_id)
            sample = CheckedSample(sample_id, path, side_of(path, eval_files))
            _fill(sample, raw, prompt_style, text_normalisation, tokenizer)
            samples.append(sample)
    if unreadable:
        raise InputError("\n".join(unreadable))
    return samples


def _fill(
    sample: CheckedSample,
    raw: Any,
    prompt_style: str,
    text_normalisation: str,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Take from a record what can be had, and note why it cannot be trained on."""
    written, problems = parse_record(raw, "as_written", text_normalisation)
    if written is None:
        sample.problems["malformed_record"] = problems
        return
    sample.speaker = written.speaker
    sample.clips = _clips_of(written, sample.path)
    sample.target_text = _target_text(written)
    sample.reference_text = _reference_text(written)
    sample.mismatches = _mismatches(written, sample)
    missing = missing_texts(written)
    others = [problem for problem in problems if not problem.startswith(tuple(missing))]
    if not sample.target_text and not missing:
        missing = ["messages: neither the trained turn nor the one before it says what the target clip says"]
    trained = written
    if not problems and not missing and prompt_style != "as_written":
        trained, others = parse_record(raw, prompt_style, text_normalisation)
    sample.problems = {k: found for k, found in (("missing_text", missing), ("malformed_record", others)) if found}
    if not sample.problems:
        sample.tokens = _count_tokens(trained, tokenizer)


def _clips_of(written: ChatMLSample, path: Path) -> list[UsedClip]:
    return [
        UsedClip(Clip.of(part, path.parent), part.where, written.trains(turn))
        for turn, message in enumerate(written.messages)
        for part in message.content
        if isinstance(part, AudioContent)
    ]


def _texts(message: Message) -> list[str]:
    """Text parts of a turn, our instruction before the target text taken off."""
    parts = [part.text for part in message.content if isinstance(part, TextContent)]
    return [part.removeprefix(AS_WRITTEN_INSTRUCTION).strip() for part in parts]


def _target_text(written: ChatMLSample) -> str:
    """What the trained turns say; else the last text of the user turn before the first trained clip."""
    turns = [turn for turn, m in enumerate(written.messages) if written.trains(turn)]
    own = " ".join(text for turn in turns for text in _texts(written.messages[turn])).strip()
    if own or not turns:
        return own
    before = [m for m in written.messages[: turns[0]] if m.role == "user"]
    texts = _texts(before[-1]) if before else []
    return texts[-1] if texts else ""


def _reference_text(written: ChatMLSample) -> str:
    """What stands before the first untrained clip: in its own turn, else in the turn before it."""
    for turn, message in enumerate(written.messages):
        for index, part in enumerate(message.content):
            if isinstance(part, AudioContent) and not written.trains(turn):
                own = [p.text.strip() for p in message.content[:index] if isinstance(p, TextContent)]
                if own or message.role != "assistant" or turn == 0:
                    return " ".join(own)
                return " ".join(_texts(written.messages[turn - 1]))
    return ""


def _mismatches(written: ChatMLSample, sample: CheckedSample) -> list[str]:
    """Where ``misc`` or the instruction says other words than the messages."""
    stated = {
        "misc.target_transcript": (written.misc.get("target_transcript"), sample.target_text),
        "misc.ref_transcript": (written.misc.get("ref_transcript"), sample.reference_text),
    }
    for turn, message in enumerate(written.messages):
        for index, part in enumerate(message.content):
            if isinstance(part, TextContent) and part.text.startswith(AS_WRITTEN_INSTRUCTION):
                asked = part.text.removeprefix(AS_WRITTEN_INSTRUCTION)
                stated[f"messages[{turn}].content[{index}]"] = (asked, sample.target_text)
    return [
        f"{where}: {there!r}; the messages say {here!r}"
        for where, (there, here) in stated.items()
        if isinstance(there, str) and there.strip() and here and _plain(there) != _plain(here)
    ]


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _count_tokens(trained: ChatMLSample, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Text tokens of a sequence, the slots of clips not counted."""
    if tokenizer is not None:
        input_ids, _, clips, _ = prepare_chatml_sample(trained, tokenizer)
        return len(input_ids) - len(clips)
    parts = [part for message in trained.messages for part in message.content]
    text = "".join(part.text for part in parts if isinstance(part, TextContent))
    clips = sum(isinstance(part, AudioContent) for part in parts)
    ascii_characters = sum(character.isascii() for character in text)
    words = ascii_characters / ASCII_PER_TOKEN + (len(text) - ascii_characters) / OTHERS_PER_TOKEN
    return round(words) + 1 + TOKENS_PER_TURN * len(trained.messages) + 2 * clips


def characters_of(samples: Sequence[CheckedSample]) -> list[dict[str, Any]]:
    """The characters of all target and reference texts, most frequent first."""
    counts = Counter(character for s in samples for text in (s.target_text, s.reference_text) for character in text)
    return [
        {"character": character, "name": unicodedata.name(character, f"U+{ord(character):04X}"), "count": count}
        for character, count in counts.most_common()
    ]
