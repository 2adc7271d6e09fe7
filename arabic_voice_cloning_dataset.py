"""Read a ChatML JSON file into samples of token ids and codes. All checks run before any weight is loaded."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from arabic_text.normalise import TEXT_NORMALISATIONS
from arabic_text.sample_texts import normalise_sample
from boson_multimodal.audio_processing.clip_encoding import ClipFacts, ClipUse, CodeSource, check_clips, encode_clips
from boson_multimodal.audio_processing.clips import frames_of
from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.codes_file import codes_name
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.mel_features import AS_CODES, TOKENS_AROUND_CHUNK, ReferenceForm
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import prepare_chatml_sample, text_problem
from boson_multimodal.cloning_example import PROMPT_STYLES, VoiceCloningExample
from boson_multimodal.constants import AUDIO_IN, AUDIO_OUT
from boson_multimodal.data_types import ChatMLSample, TextContent, parse_sample
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.errors import InputError, Problem, ProblemKind, raise_if_any
from boson_multimodal.flags import flag
from boson_multimodal.model.higgs_audio.delay_pattern import columns_of

_place_of_codes = partial(flag, in_identity=False, card="private", per_machine=True)
AS_WRITTEN_ADVICE = "--prompt_style as_written trains on the turns of the file as they are"


@dataclass(kw_only=True)
class ArabicVoiceCloningDatasetConfig:
    """Settings for reading a ChatML file and caching its audio.

    Attributes:
        prompt_style: ``as_written`` or ``voice_clone`` (see ``PROMPT_STYLES``).
        text_normalisation: how texts are normalised before they are tokenized (see ``TEXT_NORMALISATIONS``).
        code_cache_dir: folder of encoded clips. Several runs may share it.
        codes: files of codes to train from, instead of clips and the codec (see docs/codes.md).
        drop_invalid: drop and count invalid samples instead of stopping.
        max_positions_per_sample: length limit of a sample, in sequence positions with the audio slots expanded.
    """

    prompt_style: str = flag(
        "voice_clone",
        "voice_clone rewrites each sample into the voice-cloning prompt of the released model (reference text, "
        "reference audio as an untrained assistant turn, target text, target audio). Other software can send this "
        "prompt too. as_written keeps the turns of the file.",
        list(PROMPT_STYLES),
        before="as_written",
    )
    text_normalisation: str = flag(
        "none",
        "none trains on the texts as written, because only their author knows how the speaker read the digits. speech "
        "normalises user and assistant texts and spells out digits and signs in Arabic. speech_keep_digits does the "
        "same, but keeps the digits. Synthesis with the adapter normalises in the same way.",
        list(TEXT_NORMALISATIONS),
        before="none",
    )
    code_cache_dir: str = _place_of_codes(
        "~/.cache/higgs_audio_v2_codes",
        "Folder of encoded clips, keyed by content, cut and codec. Several runs may share it.",
    )
    codes: list[str] = _place_of_codes(
        [],
        "Files of codes (.safetensors, see docs/codes.md) to train from. Then neither the clips nor the codec are "
        "needed.",
    )
    drop_invalid: bool = flag(
        False, "Drop and count invalid samples instead of stopping with a list of them.", in_identity=False
    )
    max_positions_per_sample: int = flag(
        2048,
        "Length limit of a sample: text tokens plus audio columns (25 per second, references included).",
        in_identity=False,
    )

    _argument_group_name = "data"

    def __post_init__(self) -> None:
        if self.prompt_style not in PROMPT_STYLES:
            raise InputError(f"prompt_style is {self.prompt_style!r}; it must be one of {list(PROMPT_STYLES)}")
        if self.text_normalisation not in TEXT_NORMALISATIONS:
            raise InputError(
                f"text_normalisation is {self.text_normalisation!r}; it must be one of {list(TEXT_NORMALISATIONS)}"
            )
        if self.max_positions_per_sample < 1:
            raise InputError(f"max_positions_per_sample is {self.max_positions_per_sample}; it must be at least 1")


@dataclass(slots=True)
class RecordClip:
    """A clip of a record.

    Attributes:
        clip: the audio file, and the part of it that is used.
        is_reference: whether its slot is ``<|AUDIO|>``.
        where: the field of the record that names the clip.
        name: the name of the clip in files of codes.
        facts: the results of the clip's check.
    """

    clip: Clip
    is_reference: bool
    where: str
    name: str
    facts: ClipFacts = ClipFacts()


@dataclass
class Record:
    """A record of the file, tokenized, with the problems that were found in it.

    Attributes:
        sample_id: ``misc.sample_id``, else ``record N``.
        problems: empty for a valid record.
        input_ids, label_ids: see ``prepare_chatml_sample``.
        clips: in the order of their slots.
        number: of the record in the file, from 0.
    """

    sample_id: str
    problems: list[Problem]
    input_ids: list[int] = field(default_factory=list)
    label_ids: list[int] = field(default_factory=list)
    clips: list[RecordClip] = field(default_factory=list)
    number: int = 0

    @property
    def keys(self) -> list[str]:
        """The cache key of each clip."""
        return [clip.facts.key for clip in self.clips]

    @property
    def names(self) -> list[str]:
        """The name of each clip in files of codes, for scripts that judge such data."""
        return [clip.name for clip in self.clips]


class ArabicVoiceCloningDataset(Dataset):
    """Validated samples. The codes of a sample are read from the cache when the sample is accessed.

    The constructor reads the JSON, tokenizes the texts, and opens every clip that the cache does not hold yet. Each
    rank opens its share. :meth:`encode_missing` then fills the cache and computes ``lengths``. The samples cannot be
    accessed before that. Codes that come from files (``--codes``) are complete, so nothing is encoded then.

    Args:
        data_path: ``.json`` (a list of records) or ``.jsonl`` (one record per line).
        use_delay_pattern: the value in the model's configuration. It determines the number of columns of a clip.
        frames_per_second: frame rate of the codec, to check the limits of length before codes exist.
        max_positions: length limit of a sample, in sequence positions.
        reference: how the model takes references, from its configuration.

    Raises:
        InputError: if a sample is invalid and ``drop_invalid`` is off, or if no sample is valid. It lists all problems.
    """

    def __init__(
        self,
        data_path: str,
        tokenizer: PreTrainedTokenizerBase,
        cache: CodeSource,
        config: ArabicVoiceCloningDatasetConfig,
        *,
        use_delay_pattern: bool,
        frames_per_second: float,
        max_positions: int,
        reference: ReferenceForm = AS_CODES,
    ) -> None:
        self.data_path = Path(data_path)
        self.cache = cache
        self.use_delay_pattern = use_delay_pattern
        self.frames_per_second = frames_per_second
        self.reference = reference
        records = read_records(self.data_path, tokenizer, config.prompt_style, config.text_normalisation)
        self._check_clips(records)
        self._check_limits(records, max_positions)
        self.records = [record for record in records if not record.problems]
        self.num_dropped = len(records) - len(self.records)
        offenders = [f"{r.sample_id}: {problem}" for r in records for problem in r.problems]
        if not self.records:
            raise_if_any(f"{data_path}: none of its {len(records)} samples is valid", offenders)
        if not config.drop_invalid:
            raise_if_any(f"{data_path}: invalid samples (--drop_invalid leaves them out)", offenders)
        self.num_absent = len({c.facts.key for r in self.records for c in r.clips if c.facts.is_absent})
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> ChatMLDatasetSample:
        r = self.records[index]
        codes = [self._codes(r, clip.facts.key) if self._is_coded(clip.is_reference) else None for clip in r.clips]
        waveforms = self.reference.waveforms([clip.clip for clip in r.clips], [clip.is_reference for clip in r.clips])
        return ChatMLDatasetSample.of_clips(r.input_ids, r.label_ids, codes, waveforms, self.cache.num_codebooks)

    def sample_ids(self, indices: Sequence[int]) -> str:
        """Return the ids of the given samples, for messages."""
        return ", ".join(self.records[i].sample_id for i in indices)

    def fingerprint(self) -> str:
        """Return a hex digest of the ids, tokens, labels and clips of all samples, in order."""
        digest = hashlib.sha256()
        for r in self.records:
            digest.update(json.dumps([r.sample_id, r.input_ids, r.label_ids, r.keys]).encode())
        return digest.hexdigest()[:16]

    def summary(self) -> dict[str, Any]:
        """Return the file's name, the numbers of samples, dropped samples and distinct clips, and the clips' hours."""
        clips = {c.facts.key: c.facts for r in self.records for c in r.clips}.values()
        seconds = sum(f.frames / self.frames_per_second if f.frames else f.samples / f.sampling_rate for f in clips)
        return {
            "file": self.data_path.name,
            "samples": len(self),
            "dropped": self.num_dropped,
            "clips": len(clips),
            "hours": seconds / 3600,
        }

    def encode_missing(self, load_codec: Callable[[], HiggsAudioTokenizer]) -> int:
        """Encode the clips that the cache lacks (see :func:`encode_clips`), then compute ``lengths``.

        The codec is loaded only if clips are missing.

        Returns:
            The number of clips that were missing on all ranks together.
        """
        clips = {c.facts.key: c for r in self.records for c in r.clips if self._is_coded(c.is_reference)}
        missing = {key: (c.clip, c.facts) for key, c in sorted(clips.items()) if c.facts.frames is None}
        if isinstance(self.cache, CodeCache):
            encode_clips(missing, self.cache, load_codec)
        frames = {key: used.facts.frames or self._frames(key) for key, used in clips.items()}
        self.lengths = [self._positions(r, [frames.get(key, 0) for key in r.keys]) for r in self.records]
        return len(missing)

    def expected_lengths(self, records: Sequence[Record]) -> list[int]:
        """Return the number of positions of records of this dataset. Their clips need not be encoded."""
        return [self._positions(record, self._expected_frames(record)) for record in records]

    def _is_coded(self, is_reference: bool) -> bool:
        return self.reference.codes or not is_reference

    def _codes(self, record: Record, key: str) -> torch.Tensor:
        codes = self.cache.read(key)
        if codes is None:
            raise InputError(
                f"{record.sample_id}: its codes are no longer in {self.cache.place(key)}; "
                "start again to encode the clip again"
            )
        return codes

    def _frames(self, key: str) -> int:
        codes = self.cache.read(key)
        if codes is None:
            raise InputError(f"{self.cache.place(key)}: not there after encoding; is the disk full or not shared?")
        return codes.shape[1]

    def _positions(self, record: Record, frames: list[int]) -> int:
        """Return the number of sequence positions of a record. ``frames`` holds the number of frames of each clip."""
        positions = len(record.input_ids) - len(frames)
        for count, used in zip(frames, record.clips, strict=True):
            if self._is_coded(used.is_reference):
                positions += columns_of(count, self.cache.num_codebooks, self.use_delay_pattern)
            if used.is_reference:
                chunks = self.reference.chunk_positions(used.facts.samples, used.facts.sampling_rate)
                positions += sum(chunks) + TOKENS_AROUND_CHUNK * max(0, len(chunks) - 1)
        return positions

    def _expected_frames(self, record: Record) -> list[int]:
        found = [used.facts for used in record.clips]
        return [f.frames or frames_of(f.samples, f.sampling_rate, self.frames_per_second) for f in found]

    def _check_clips(self, records: list[Record]) -> None:
        """Look up or open every clip, divided among the ranks. Add a problem to every record that uses the clip."""
        slots: dict[tuple[Clip, str], set[bool]] = defaultdict(set)
        for record in records:
            for used in record.clips:
                slots[used.clip, used.name].add(used.is_reference)
        has_features = self.reference.chunk_seconds is not None
        uses = [
            ClipUse(clip, name, any(map(self._is_coded, found)), has_features and True in found)
            for (clip, name), found in slots.items()
        ]
        facts = check_clips(uses, self.cache, self.frames_per_second, self.data_path.name)
        found = dict(zip(slots, facts, strict=True))
        for record in records:
            for used in record.clips:
                used.facts = found[used.clip, used.name]
            record.problems += [
                Problem(ProblemKind.UNUSABLE_AUDIO, f"{used.where}: {used.facts.problem}")
                for used in record.clips
                if used.facts.problem
            ]

    def _check_limits(self, records: list[Record], max_positions: int) -> None:
        for record in records:
            if record.problems:
                continue
            too_long = self._long_references(record)
            frames = self._expected_frames(record)
            positions = self._positions(record, frames)
            if positions > max_positions:
                too_long.append(
                    f"is {positions} positions long, {sum(frames)} of them audio frames; the limit is {max_positions} "
                    "(--max_positions_per_sample, --max_tokens_per_batch): cut its clips or raise the limit"
                )
            record.problems += [Problem(ProblemKind.OVER_LIMIT, problem) for problem in too_long]

    def _long_references(self, record: Record) -> list[str]:
        """Return a problem for each reference that is longer than a chunk, if references are given as codes too.

        Codes cannot be split into chunks.
        """
        if not self.reference.codes:
            return []
        return [
            f"{used.where}: a reference of {used.facts.samples / used.facts.sampling_rate:g} s; this model takes "
            f"references as codes and as features of {self.reference.chunk_seconds} s at most: cut it (duration)"
            for used in record.clips
            if used.is_reference
            and len(self.reference.chunk_positions(used.facts.samples, used.facts.sampling_rate)) > 1
        ]


def read_records(
    path: Path, tokenizer: PreTrainedTokenizerBase, prompt_style: str, text_normalisation: str = "none"
) -> list[Record]:
    """Parse and tokenize every record of a file. Each record lists its own problems.

    Raises:
        InputError: if the file is missing, empty or not JSON.
    """
    records = []
    slots = tokenizer.convert_tokens_to_ids([AUDIO_IN, AUDIO_OUT])
    for number, raw in enumerate(read_json_records(path)):
        sample, problems = parse_record(raw, prompt_style, text_normalisation)
        record = Record(sample_id_of(raw, number), problems, number=number)
        records.append(record)
        if sample is None or problems:
            continue
        record.input_ids, record.label_ids, contents = prepare_chatml_sample(sample, tokenizer)
        references = [token == slots[0] for token in record.input_ids if token in slots]
        record.clips = [
            RecordClip(Clip.of(content, path.parent), is_reference, content.where, codes_name(content))
            for content, is_reference in zip(contents, references, strict=True)
        ]
    return records


def sample_id_of(raw: Any, number: int) -> str:
    """Return the name of a record in messages: its ``misc.sample_id``, else ``record N``."""
    misc = raw.get("misc") if isinstance(raw, dict) else None
    return str((misc.get("sample_id") if isinstance(misc, dict) else None) or f"record {number}")


def parse_record(
    raw: Any, prompt_style: str, text_normalisation: str = "none"
) -> tuple[ChatMLSample | None, list[Problem]]:
    """Return the conversation of a JSON record in the given form, and every problem that makes it unusable."""
    sample, problems = parse_sample(raw)
    if sample is not None:
        problems = _content_problems(sample)
    if sample is not None and not problems and text_normalisation != "none":
        sample = normalise_sample(sample, text_normalisation)
        addition = f", after text_normalisation {text_normalisation}"
        problems = [replace(p, message=p.message + addition) for p in _content_problems(sample)]
    if sample is not None and not problems and prompt_style == "voice_clone":
        example, problems = VoiceCloningExample.read(sample)
        if example is None:
            problems[-1] = replace(problems[-1], message=f"{problems[-1]}; {AS_WRITTEN_ADVICE}")
            return None, problems
        sample = example.conversation(prompt_style, sample.speaker, sample.misc)
    return sample, problems


def read_json_records(path: Path) -> list[Any]:
    """Return the unchecked records of a ``.json`` list or of a ``.jsonl`` file.

    Raises:
        InputError: if the file is missing, not JSON (naming the lines), not a list, or empty.
    """
    text = read_text(path, "give a ChatML .json or .jsonl")
    by_line = path.suffix == ".jsonl"
    # str.splitlines would also split at U+2028 and similar characters, which a JSON string may contain.
    parts = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()] if by_line else [(1, text)]
    values, problems = [], []
    for first_line, part in parts:
        try:
            values.append(json.loads(part))
        except json.JSONDecodeError as error:
            problems.append(f"line {first_line + error.lineno - 1}, column {error.colno}: {error.msg}")
    raise_if_any(f"{path}: not JSON", problems)
    records = values if by_line else values[0]
    if not isinstance(records, list) or not records:
        found = "no sample" if records == [] else f"a JSON {type(records).__name__}"
        raise InputError(
            f"{path}: holds {found}; a .json file is a list of samples, a .jsonl file has one sample per line"
        )
    return records


def read_text(path: Path, advice: str = "") -> str:
    """Return the content of a UTF-8 file, without its byte order mark.

    Args:
        advice: how to correct a missing file, for the message.

    Raises:
        InputError: if the file is missing, cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file" + (f"; {advice}" if advice else "")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({error})") from error


def _text_parts(sample: ChatMLSample) -> list[tuple[str, str]]:
    """Return the field and the text of each text part."""
    return [
        (f"messages[{i}].content[{j}].text", part.text)
        for i, message in enumerate(sample.messages)
        for j, part in enumerate(message.content)
        if isinstance(part, TextContent)
    ]


def _content_problems(sample: ChatMLSample) -> list[Problem]:
    """Return why a well-formed conversation is not a usable training sample; an empty list if it is one."""
    texts = _text_parts(sample)
    missing = [f"{where}: {text!r}; text is missing" for where, text in texts if not text.strip()]
    if not any(isinstance(p, TextContent) for m in sample.messages if m.role != "system" for p in m.content):
        missing.append("messages: no text in any user or assistant turn; the model needs the text to speak")
    texts += [(f"messages[{i}].recipient", m.recipient) for i, m in enumerate(sample.messages) if m.recipient]
    malformed = [f"{where}: {reason}" for where, text in texts if (reason := text_problem(text))]
    if not any(sample.trains(turn) for turn, _ in sample.clips()):
        malformed.append(f"messages: no audio in an assistant turn from start_index {sample.start_index or 0} on")
    return [Problem(ProblemKind.MISSING_TEXT, problem) for problem in missing] + [
        Problem(ProblemKind.MALFORMED_RECORD, problem) for problem in malformed
    ]
