"""ChatML files -> samples as the check looks at them: who says what in which clips, and what is malformed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import parse_record, read_json_records, sample_id_of
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import AS_WRITTEN_INSTRUCTION, prepare_chatml_sample
from boson_multimodal.data_types import ChatMLSample, Message, TextContent, parse_sample
from boson_multimodal.errors import InputError

SPLITS = ("train", "eval")


@dataclass
class CheckedSample:
    """One record.

    Attributes:
        sample_id: unique among all files; the file's name stands before one that is not.
        split: train or eval.
        problems: why it is malformed.
        lacks_text: whether text is missing, in a turn or altogether.
        targets, references: clips of the trained turns, and all others.
        text, reference_text: what is said in them, as far as the turns say.
        tokens: of its text, with the special ones; None without a tokenizer, or for a malformed record.
    """

    sample_id: str
    split: str
    problems: list[str] = field(default_factory=list)
    lacks_text: bool = False
    speaker: str | None = None
    targets: list[Clip] = field(default_factory=list)
    references: list[Clip] = field(default_factory=list)
    text: str = ""
    reference_text: str = ""
    misc: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None

    @property
    def clips(self) -> list[Clip]:
        return self.targets + self.references


def read_samples_of(
    paths: dict[str, Sequence[Path]], prompt_style: str, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[CheckedSample], list[dict[str, Any]]]:
    """Every record of the files of each split.

    Returns:
        The samples, and {"path", "split", "samples"} of each file.

    Raises:
        InputError: if a file is missing, empty or not JSON; all such files are named.
    """
    samples, files, problems, origins = [], [], [], []
    for split in SPLITS:
        for path in paths.get(split, ()):
            try:
                records = read_json_records(path)
            except InputError as error:
                problems.append(str(error))
                continue
            files.append({"path": str(path), "split": split, "samples": len(records)})
            for number, raw in enumerate(records):
                sample = _checked(raw, sample_id_of(raw, number), split, path.parent, prompt_style, tokenizer)
                samples.append(sample)
                origins.append(path)
    if problems:
        raise InputError("\n".join(problems))
    _make_ids_unique(samples, origins)
    return samples, files


def _checked(
    raw: Any, sample_id: str, split: str, folder: Path, prompt_style: str, tokenizer: PreTrainedTokenizerBase | None
) -> CheckedSample:
    """One record; its clips are relative to ``folder``."""
    found = CheckedSample(sample_id, split)
    chat, _ = parse_sample(raw)
    styled, found.problems = parse_record(raw, prompt_style)
    if chat is None:
        return found
    found.speaker, found.misc = chat.speaker, chat.misc
    texts = [part for m in chat.messages for part in m.content if isinstance(part, TextContent)]
    spoken = [part for m in chat.messages if m.role != "system" for part in m.content if isinstance(part, TextContent)]
    found.lacks_text = not spoken or any(not part.text.strip() for part in texts)
    for turn, message in enumerate(chat.messages):
        clips = [Clip.of(part, folder) for part in message.content if not isinstance(part, TextContent)]
        (found.targets if chat.trains(turn) else found.references).extend(clips)
    found.text, found.reference_text = _target_text(chat), _reference_text(chat)
    if tokenizer is not None and styled is not None and not found.problems:
        found.tokens = len(prepare_chatml_sample(styled, tokenizer)[0])
    return found


def _target_text(chat: ChatMLSample) -> str:
    """Text of the trained turns; where they hold audio alone, that of the turn before the first of them."""
    trained = [turn for turn in range(len(chat.messages)) if chat.trains(turn)]
    text = " ".join(_text_of(chat.messages[turn]) for turn in trained).strip()
    if not text and trained and trained[0] > 0:
        asked = [part.text for part in chat.messages[trained[0] - 1].content if isinstance(part, TextContent)]
        text = asked[-1].removeprefix(AS_WRITTEN_INSTRUCTION).strip() if asked else ""
    return text


def _reference_text(chat: ChatMLSample) -> str:
    """Text before the first untrained clip in its turn; where there is none, that of the turn before."""
    for turn, message in enumerate(chat.messages):
        places = [i for i, part in enumerate(message.content) if not isinstance(part, TextContent)]
        if places and not chat.trains(turn):
            text = " ".join(part.text.strip() for part in message.content[: places[0]]).strip()
            return text if text or turn == 0 else _text_of(chat.messages[turn - 1])
    return ""


def _text_of(message: Message) -> str:
    return " ".join(part.text.strip() for part in message.content if isinstance(part, TextContent)).strip()


def _make_ids_unique(samples: Sequence[CheckedSample], origins: Sequence[Path]) -> None:
    """Put the file's name before an id that several records have, and a number after one that still is not unique."""
    counts = Counter(sample.sample_id for sample in samples)
    seen: Counter[str] = Counter()
    for sample, path in zip(samples, origins, strict=True):
        if counts[sample.sample_id] > 1:
            sample.sample_id = f"{path.name}: {sample.sample_id}"
            seen[sample.sample_id] += 1
            if seen[sample.sample_id] > 1:
                sample.sample_id += f" ({seen[sample.sample_id]})"
