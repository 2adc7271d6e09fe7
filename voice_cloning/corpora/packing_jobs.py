"""What the worker processes of ``pack`` do: a block of records becomes token ids and facts about clips, then shards.

Each job writes whole files and returns at once if its files are there, so that a packing that was killed goes on. The
files of a job depend on the data file and the settings alone. Two packings of the same data may therefore share them.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import read_record
from boson_multimodal.audio_processing.clip_encoding import ClipFacts, CodeSource, late_cut
from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml_records import parse_numbered
from boson_multimodal.checked_records import Record, RecordChecks
from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.prepared_dataset import fingerprint_line_of_row
from boson_multimodal.prepared_data.prepared_folder import ShardTable
from boson_multimodal.prepared_data.shard_files import SUFFIX, Ragged, Shard, write_shard
from boson_multimodal.prompt_template import PromptForm, prompt_form

BLOCKS, SHARDS = "packing-", "shards-"
"""Beginnings of the names of the folders in a folder of prepared data; the key of the packing follows."""
SILENCE = {None: -1, False: 0, True: 1}
"""How a block writes whether a clip is silent."""


@dataclass(frozen=True)
class PackSettings:
    """What workers need to know.

    Attributes:
        data_path: the ChatML file.
        model_folder: of the tokenizer.
        prompt_style, prompt_template, text_normalisation, codes, code_cache_dir: as in training.
        codec: identity of the codec, if the codes come from the cache.
        num_codebooks, codebook_size: the form of codes.
        frames_per_second: of the codec.
        use_delay_pattern: as the model's configuration says.
        max_positions: length limit of a sample.
        folder: of the prepared data.
        findings: what is taken for the same speech (``SameSpeech``); empty if no references are written.
        key: of the packing; see ``packing_key``.
    """

    data_path: Path
    model_folder: Path
    prompt_style: str
    text_normalisation: str
    codes: tuple[str, ...]
    code_cache_dir: Path
    codec: str
    num_codebooks: int
    codebook_size: int
    frames_per_second: float
    use_delay_pattern: bool
    max_positions: int
    folder: Path
    findings: tuple[str, ...] = ()
    key: str = ""
    prompt_template: str | None = None

    @property
    def prompt(self) -> PromptForm:
        """What decides the turns, as in training."""
        return prompt_form(self.prompt_style, self.prompt_template)

    @property
    def blocks(self) -> Path:
        """The folder of the blocks, which are removed at the end."""
        return self.folder / f"{BLOCKS}{self.key}"

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.folder / f"{SHARDS}{self.key}"

    def records_file(self, block: int) -> Path:
        """Return the file of a block's records. It is written after :meth:`uses_file`."""
        return self.blocks / f"records-{block:05d}{SUFFIX}"

    def uses_file(self, block: int) -> Path:
        """Return the file of the clips that a block's records use."""
        return self.blocks / f"uses-{block:05d}{SUFFIX}"

    def samples_file(self, block: int) -> Path:
        """Return the shard of a block's valid samples."""
        return self.shards / f"samples-{block:05d}{SUFFIX}"

    def references_file(self, block: int) -> Path:
        """Return the shard of what is known about the targets of a block's samples."""
        return self.shards / f"references-{block:05d}{SUFFIX}"

    def clips_file(self, number: int) -> Path:
        """Return a shard of clips."""
        return self.shards / f"clips-{number:05d}{SUFFIX}"


@dataclass(frozen=True)
class RawBlock:
    """Records that follow each other in a file.

    Attributes:
        settings: of the packing.
        number: of the block.
        first: number of the first record.
        records: JSON values of a list; or lines of a ``.jsonl`` with their numbers.
    """

    settings: PackSettings
    number: int
    first: int
    records: Sequence[Any] | Sequence[tuple[int, str]]


@dataclass(frozen=True)
class ClipsJob:
    """A shard of clips to write: for each clip the block and the row that name it, which need not be in one block."""

    settings: PackSettings
    number: int
    places: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class SamplesJob:
    """A shard of samples to write.

    Attributes:
        settings: of the packing.
        block: number of the block.
        clips: (uses,) the number of the clip of each use of the block.
        frames: (uses,) its code frames.
    """

    settings: PackSettings
    block: int
    clips: np.ndarray
    frames: np.ndarray


@cache
def open_source(settings: PackSettings) -> CodeSource:
    """Return the source of the codes."""
    form = settings.num_codebooks, settings.codebook_size
    if settings.codes:
        return CodesFiles(settings.codes, *form)
    return CodeCache(settings.code_cache_dir, settings.codec, *form)


@cache
def tokenizer_of(model_folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model."""
    return AutoTokenizer.from_pretrained(model_folder)


def opened(path: Path) -> Shard | None:
    """Return a shard that is there and whole, or None."""
    try:
        return Shard(path) if path.exists() else None
    except InputError:
        return None  # of a broken disk: it is written again


def check_block(block: RawBlock) -> tuple[int, list[str]]:
    """Tokenize the records of a block, check them and their clips, and write what was found.

    Returns:
        The number of records, and the lines that are not JSON. If there are any, nothing is written.
    """
    settings, raw, problems = block.settings, block.records, []
    if settings.data_path.suffix == ".jsonl":
        raw, problems = parse_numbered(block.records)
    if problems:
        return len(block.records), problems
    tokenizer, source = tokenizer_of(settings.model_folder), open_source(settings)
    style = settings.prompt, settings.text_normalisation
    records = [
        read_record(value, block.first + index, settings.data_path, tokenizer, *style)
        for index, value in enumerate(raw)
    ]
    checks = RecordChecks(source, settings.frames_per_second, settings.use_delay_pattern)
    checks.check(records, settings.max_positions, settings.data_path.name, is_quiet=True)
    if isinstance(source, CodeCache):
        source.seal()  # the hashes of files that this block had to read
    write_block(settings, block.number, records, checks)
    return len(records), []


def is_written(settings: PackSettings, block: int) -> bool:
    """Return whether a block of checked records is there and whole."""
    return opened(settings.records_file(block)) is not None and opened(settings.uses_file(block)) is not None


def write_block(settings: PackSettings, number: int, records: Sequence[Record], checks: RecordChecks) -> None:
    """Write the ``number``-th block of checked records, and their clips."""
    _write_uses(settings.uses_file(number), records, settings)
    _write_records(settings.records_file(number), records, checks)


def _write_uses(path: Path, records: Sequence[Record], settings: PackSettings) -> None:
    """Write every use of a clip, in the order of the records, also of invalid ones."""
    labels, clips, late, facts = [], [], [], []
    for record in records:
        for used in record.clips:
            labels.append(f"{record.sample_id}: {used.where}: {used.clip.name}")
            clips.append(_clip_text(used.clip))
            late.append(late_cut(used.clip, used.facts, settings.frames_per_second))
            facts.append(used.facts)
    fixed = {
        "frames": np.array([found.frames or 0 for found in facts], np.int32),
        "samples": np.array([found.samples for found in facts], np.int64),
        "sampling_rate": np.array([found.sampling_rate for found in facts], np.int32),
        "silent": np.array([SILENCE[found.is_silent] for found in facts], np.int8),
        "is_used": np.array([not r.problems for r in records for _ in r.clips], np.uint8),
    }
    texts = {"key": [found.key for found in facts], "label": labels, "clip": clips, "late": late}
    write_shard(path, fixed, {name: Ragged.of_texts(column) for name, column in texts.items()})


def _write_records(path: Path, records: Sequence[Record], checks: RecordChecks) -> None:
    """Write the records. The clips of a record are numbered as in the file of the uses."""
    ends = np.cumsum([len(record.clips) for record in records], dtype=np.int32)
    uses = [np.arange(end - len(record.clips), end, dtype=np.int32) for record, end in zip(records, ends, strict=True)]
    sizes = checks.sizes(records)
    fixed = {
        "number": np.array([record.number for record in records], np.int32),
        "is_valid": np.array([not record.problems for record in records], np.uint8),
        "text_positions": sizes.text_positions,
        "text_labels": sizes.text_labels,
        "has_speaker": np.array([record.speaker is not None for record in records], np.uint8),
    }
    ragged = {
        "input_ids": Ragged.of([np.array(record.input_ids, np.int32) for record in records], np.int32),
        "label_ids": Ragged.of([np.array(record.label_ids, np.int32) for record in records], np.int32),
        "clips": Ragged.of(uses, np.int32),
        "sample_id": Ragged.of_texts([record.sample_id for record in records]),
        "speaker": Ragged.of_texts([record.speaker or "" for record in records]),
        "text": Ragged.of_texts([record.text_to_speak for record in records]),
        "problems": Ragged.of_texts([json.dumps(list(map(str, record.problems))) for record in records]),
    }
    write_shard(path, fixed, ragged)


def _clip_text(clip: Clip) -> str:
    is_bytes = isinstance(clip.source, bytes)
    source = base64.b64encode(clip.source).decode() if is_bytes else str(clip.source)
    return json.dumps([is_bytes, source, clip.offset, clip.duration])


def clip_of_use(uses: Shard, row: int) -> tuple[Clip, ClipFacts]:
    """Return the clip of a use that has no codes yet, and the facts that its encoding needs."""
    is_bytes, source, offset, duration = json.loads(uses.read_text("clip", row))
    clip = Clip(base64.b64decode(source) if is_bytes else Path(source), offset, duration)
    numbers = [int(uses.fixed[name][row]) for name in ("samples", "sampling_rate", "silent")]
    silent = next(name for name, value in SILENCE.items() if value == numbers[2])
    return clip, ClipFacts(uses.read_text("key", row), None, *numbers[:2], is_silent=silent)


def write_clips(job: ClipsJob) -> None:
    """Write a shard of clips: the key, the codes and the number of frames of each."""
    settings, path = job.settings, job.settings.clips_file(job.number)
    if opened(path) is not None:
        return
    source = open_source(settings)
    if isinstance(source, CodeCache):
        source.store.refresh()  # the clips may have been encoded since this process looked for them
    blocks = {block: Shard(settings.uses_file(block)) for block in {block for block, _ in job.places}}
    keys = [blocks[block].read_text("key", row) for block, row in job.places]
    codes = []
    for key in keys:
        found = source.read(key)
        if found is None:
            raise InputError(f"{source.place(key)}: not there any more; start again")
        codes.append(found.numpy().astype(np.int16))
    frames = np.array([codes_KT.shape[1] for codes_KT in codes], np.int32)
    write_shard(path, {"frames": frames}, {"codes": Ragged.of(codes, np.int16), "key": Ragged.of_texts(keys)})


def write_samples(job: SamplesJob) -> None:
    """Write the shard of a block's valid samples."""
    path = job.settings.samples_file(job.block)
    records = Shard(job.settings.records_file(job.block))
    rows = np.flatnonzero(records.fixed["is_valid"])
    if opened(path) is not None or not len(rows):
        return
    uses = [records.read("clips", row) for row in rows.tolist()]
    fixed = {name: column[rows] for name, column in records.fixed.items() if name != "is_valid"}
    fixed["frames"] = np.array([int(job.frames[use].sum()) for use in uses], np.int32)
    ragged = {"clips": Ragged.of([job.clips[use] for use in uses], np.int32)}
    for name, dtype in (("input_ids", np.int32), ("label_ids", np.int32)):
        ragged[name] = Ragged.of([records.read(name, row) for row in rows.tolist()], dtype)
    for name in ("sample_id", "speaker", "text"):
        ragged[name] = Ragged.of([records.read(name, row) for row in rows.tolist()], np.uint8)
    write_shard(path, fixed, ragged)


@dataclass(frozen=True)
class FingerprintJob:
    """The samples whose lines of the fingerprint are wanted.

    Attributes:
        settings: of the packing.
        block: number of the block.
        clip_shards: number of the shards of clips.
    """

    settings: PackSettings
    block: int
    clip_shards: int


@cache
def clip_table(settings: PackSettings, shards: int) -> ShardTable:
    """Return the first ``shards`` shards of clips."""
    return ShardTable([Shard(settings.clips_file(number)) for number in range(shards)])


def forget_sources() -> None:
    """Close what this process has opened for its jobs."""
    open_source.cache_clear()
    clip_table.cache_clear()


def fingerprint_lines(job: FingerprintJob) -> bytes:
    """Return what the fingerprint hashes of the samples of a shard."""
    samples, clips = (
        ShardTable([Shard(job.settings.samples_file(job.block))]),
        clip_table(job.settings, job.clip_shards),
    )
    return b"".join(fingerprint_line_of_row(samples, clips, row) for row in range(len(samples)))
