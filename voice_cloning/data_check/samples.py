"""Reads the records of ChatML files for the check: speakers, texts, clips, and the length of the sequence."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import parse_record, read_json_records, sample_id_of
from boson_multimodal.audio_processing.codes_file import codes_name
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import prepare_chatml_sample
from boson_multimodal.cloning_example import reference_text_of_messages, target_text_of_messages, text_mismatches
from boson_multimodal.data_types import ChatMLSample, TextContent
from boson_multimodal.errors import Problem, ProblemKind, call_for_each
from boson_multimodal.progress import progress
from boson_multimodal.prompt_template import PromptForm

TRAIN, EVAL = "train", "eval"
EVAL_NAMES = {"val", "valid", "validation", "eval", "evaluation", "dev", "test"}
"""A file with one of these words in its name is evaluation data."""
ASCII_PER_TOKEN, OTHERS_PER_TOKEN = 5.0, 2.2
"""Characters per token, for estimates without a tokenizer. Measured with Llama 3's: 5.3 in our instructions; 2.7 in
Arabic news, 2.4 in single words, 2.3 in dialect, 1.9 with full diacritics."""
TOKENS_PER_TURN = 5
"""Tokens of the header and the end of a turn."""


@dataclass(frozen=True)
class UsedClip:
    """A clip of a sample, the field that names it, and its name in files of codes."""

    clip: Clip
    where: str
    is_target: bool
    codes_name: str = ""


@dataclass
class CheckedSample:
    """A record of a file.

    Attributes:
        sample_id: ``misc.sample_id``, else ``record N``; a later record with the same id also has its file and number.
        path: the file.
        side: ``train`` or ``eval``.
        problems: reasons why the record cannot be trained on, by the kind of the finding.
        target_text, reference_text: texts of the clips according to the messages; empty if these have none.
        mismatches: texts of ``misc`` or of the instruction that differ from these texts.
        tokens: number of text tokens of the record's sequence.
        dialect: ``misc.dialect``.
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
    dialect: str | None = None

    @property
    def targets(self) -> list[UsedClip]:
        return [used for used in self.clips if used.is_target]

    @property
    def references(self) -> list[UsedClip]:
        return [used for used in self.clips if not used.is_target]


def side_of(path: Path, eval_files: Sequence[Path]) -> str:
    """Return the side of a file: it is evaluation data if ``eval_files`` holds it or its name shows it."""
    words = set(re.findall("[a-z]+", path.stem.lower()))
    return EVAL if path in eval_files or words & EVAL_NAMES else TRAIN


def read_samples_of(
    files: Sequence[Path],
    eval_files: Sequence[Path],
    prompt_style: PromptForm,
    text_normalisation: str,
    tokenizer: PreTrainedTokenizerBase | None,
) -> list[CheckedSample]:
    """Read every record of the files, in order.

    Raises:
        InputError: naming every file that is missing, empty or not JSON.
    """
    seen: set[str] = set()

    def read(path: Path) -> list[CheckedSample]:
        samples = []
        for number, raw in enumerate(progress(read_json_records(path), f"reading {path.name}", unit="sample")):
            sample_id = sample_id_of(raw, number)
            if sample_id in seen:
                sample_id = f"{sample_id} ({path.name}, record {number})"
            seen.add(sample_id)
            sample = CheckedSample(sample_id, path, side_of(path, eval_files))
            _fill(sample, raw, prompt_style, text_normalisation, tokenizer)
            samples.append(sample)
        return samples

    return [sample for samples in call_for_each(read, files) for sample in samples]


def _fill(
    sample: CheckedSample,
    raw: Any,
    prompt_style: PromptForm,
    text_normalisation: str,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Fill a sample from its record, with the reasons why it cannot be trained on."""
    written, problems = parse_record(raw, "as_written", text_normalisation)
    if written is not None:
        sample.speaker = written.speaker
        dialect = written.misc.get("dialect")
        sample.dialect = None if dialect is None else str(dialect)
        sample.clips = [
            UsedClip(Clip.of(clip, sample.path.parent), clip.where, written.trains(turn), codes_name(clip))
            for turn, clip in written.clips()
        ]
        sample.target_text = target_text_of_messages(written)
        sample.reference_text = reference_text_of_messages(written)
        sample.mismatches = text_mismatches(written)
        if not sample.target_text and all(problem.kind != ProblemKind.MISSING_TEXT for problem in problems):
            silent = "messages: neither the trained turn nor the turn before it has the text of the target clip"
            problems = [Problem(ProblemKind.MISSING_TEXT, silent), *problems]
    trained = written
    if not problems and prompt_style != "as_written":
        trained, problems = parse_record(raw, prompt_style, text_normalisation)
    for problem in problems:
        sample.problems.setdefault(problem.kind, []).append(problem.message)
    if trained is not None and not problems:
        sample.tokens = _count_tokens(trained, tokenizer)


def _count_tokens(trained: ChatMLSample, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Return the number of text tokens of a sequence, without the slots of clips."""
    if tokenizer is not None:
        input_ids, _, contents = prepare_chatml_sample(trained, tokenizer)
        return len(input_ids) - len(contents)
    parts = [part for message in trained.messages for part in message.content]
    text = "".join(part.text for part in parts if isinstance(part, TextContent))
    ascii_characters = sum(character.isascii() for character in text)
    words = ascii_characters / ASCII_PER_TOKEN + (len(text) - ascii_characters) / OTHERS_PER_TOKEN
    return round(words) + 1 + TOKENS_PER_TURN * len(trained.messages) + 2 * len(trained.clips())


def characters_of(samples: Sequence[CheckedSample]) -> list[dict[str, Any]]:
    """Return the characters of all target and reference texts with their counts, most frequent first."""
    counts = Counter(character for s in samples for text in (s.target_text, s.reference_text) for character in text)
    return [
        {"character": character, "name": unicodedata.name(character, f"U+{ord(character):04X}"), "count": count}
        for character, count in counts.most_common()
    ]
