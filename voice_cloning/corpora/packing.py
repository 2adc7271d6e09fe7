"""Turns a ChatML file into a folder of prepared data (see ``boson_multimodal/prepared_data/prepared_folder.py``).

The work has four parts, each in all processes, and each may be killed and goes on from its whole files:

1. Blocks of records become token ids and facts about clips. Then the problems of all records are known.
2. Clips without codes are encoded into the cache.
3. Shards of clips and shards of samples are written, then the fingerprint is computed. If references may be drawn from
   the data, the targets with the same speech are found, and shards of references are written.
4. The manifest is written, and the blocks are removed.

Blocks and shards lie in folders whose names hold the key of the packing: a hash of the data file and of all settings.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset, has_as_written_turns
from boson_multimodal.audio_processing.clip_encoding import encode_clips, late_cut_warning, silence_warnings
from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.chatml_records import no_records, parse_numbered, read_json_records, read_text
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.prepared_data.prepared_folder import AS_WRITTEN_TURNS, FORM, write_manifest
from boson_multimodal.prepared_data.shard_files import Shard
from boson_multimodal.progress import progress
from boson_multimodal.sample_dataset import refuse_problems
from boson_multimodal.worker_pool import WorkerPool
from voice_cloning.corpora.packing_jobs import (
    SILENCE,
    ClipsJob,
    FingerprintJob,
    PackSettings,
    RawBlock,
    SamplesJob,
    check_block,
    clip_of_use,
    fingerprint_lines,
    is_written,
    open_source,
    write_block,
    write_clips,
    write_samples,
)
from voice_cloning.corpora.packing_references import (
    SameSpeech,
    described_references,
    find_targets,
    reference_jobs,
    write_references,
)

RECORDS_OF_BLOCK = 4096
CLIPS_OF_SHARD = 8192
HASH_BYTES = 16
"""Of a clip's key. Keys are compared by their hashes, which take little memory."""


@dataclass(frozen=True)
class Uses:
    """All uses of clips by valid records, in the order of the file.

    Attributes:
        places: (uses, 2) block, and row in it.
        clips: (uses,) the number of the clip. Clips are numbered in the order of their first use.
        first_uses: (clips,) the first use of each clip.
    """

    places: np.ndarray
    clips: np.ndarray
    first_uses: np.ndarray


def packing_key(settings: PackSettings, described: dict[str, Any], drop_invalid: bool) -> str:
    """Return a hash of the data file and of all that determines what is written.

    Args:
        settings: of the packing.
        described: the settings that the manifest will hold.
        drop_invalid: whether invalid samples are left out.
    """
    files = [(str(path), Path(path).stat().st_size) for path in settings.codes]
    folder = str(settings.data_path.parent.resolve())
    facts = [FORM, _file_hash(settings.data_path), folder, described, files, settings.max_positions, drop_invalid]
    if settings.findings:
        facts.append(settings.findings)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def pack_records(
    settings: PackSettings,
    described: dict[str, Any],
    load_codec: Callable[[], HiggsAudioTokenizer],
    *,
    drop_invalid: bool,
    same_speech: SameSpeech | None,
    pool: WorkerPool,
) -> None:
    """Write the folder of prepared data.

    Args:
        settings: of the packing.
        described: the settings that the manifest will hold.
        load_codec: returns the codec. It is called only if a clip has no codes.
        drop_invalid: leave out invalid samples instead of stopping.
        same_speech: finds targets with the same speech; None writes no references.
        pool: does the work.

    Raises:
        InputError: if the file is wrong. It lists all problems.
    """
    count, turns = _check_blocks(settings, pool)
    if not count:
        raise no_records(settings.data_path, "no sample")
    blocks = range(-(-count // RECORDS_OF_BLOCK))
    facts = {"dropped": _refuse_problems(settings, blocks, count, drop_invalid), AS_WRITTEN_TURNS: turns}
    uses = _find_uses(settings, blocks)
    source = open_source(settings)
    if isinstance(source, CodeCache):
        encode_clips(_missing(settings, uses, source), source, load_codec)
    content = _write_shards(settings, blocks, uses, pool)
    if same_speech is not None:
        content["references"] = _write_references(settings, blocks, uses, same_speech, pool)
    if packing_key(settings, described, drop_invalid) != settings.key:
        raise InputError(f"{settings.data_path}: has changed while it was packed; start again")
    write_manifest(settings.folder, {**content, "settings": described, **facts})


def pack_dataset(
    settings: PackSettings, described: dict[str, Any], dataset: ArabicVoiceCloningDataset, pool: WorkerPool
) -> None:
    """Write the folder of prepared data of a file that has been read, checked and encoded; see :func:`pack_records`."""
    records, starts = dataset.records, range(0, len(dataset), RECORDS_OF_BLOCK)
    for number, start in enumerate(starts):
        if not is_written(settings, number):
            write_block(settings, number, records[start : start + RECORDS_OF_BLOCK], dataset.checks)
    blocks = range(len(starts))
    content = _write_shards(settings, blocks, _find_uses(settings, blocks), pool)
    write_manifest(settings.folder, {**content, "settings": described, "dropped": dataset.num_dropped})


def _write_shards(settings: PackSettings, blocks: Sequence[int], uses: Uses, pool: WorkerPool) -> dict[str, Any]:
    """Write the shards. Return what the manifest holds about them."""
    clip_shards = _write_clips(settings, uses, pool)
    frames = np.concatenate([shard.fixed["frames"] for shard in clip_shards])
    jobs = _sample_jobs(settings, blocks, uses, frames)
    _run(write_samples, jobs, len(blocks), pool, "packing samples", "block")
    packed = [block for block in blocks if settings.samples_file(block).exists()]
    jobs = (FingerprintJob(settings, block, len(clip_shards)) for block in packed)
    digest = hashlib.sha256()
    for lines in pool.stream(fingerprint_lines, jobs):
        digest.update(lines)
    return {
        "file": settings.data_path.name,
        "key": settings.key,
        "fingerprint": digest.hexdigest()[:16],
        "hours": int(frames.sum()) / settings.frames_per_second / 3600,
        "notes": _notes(settings, blocks),
        "samples": [_entry(Shard(settings.samples_file(block)), settings.folder) for block in packed],
        "clips": [_entry(shard, settings.folder) for shard in clip_shards],
    }


def _check_blocks(settings: PackSettings, pool: WorkerPool) -> tuple[int, bool | None]:
    """Check all blocks of the file that are not checked yet.

    Returns:
        The number of records of the file, and :func:`has_as_written_turns` of the first.

    Raises:
        InputError: if the file cannot be read, or is not JSON; it names all such lines.
    """
    count, problems, first = 0, [], None

    def missing() -> Iterator[RawBlock]:
        nonlocal count, first
        for number, records in enumerate(_blocks_of(settings.data_path)):
            block = RawBlock(settings, number, count, records)
            first = records[0] if number == 0 else first
            count += len(records)
            if is_written(settings, number):
                bar.update(len(records))
            else:
                yield block

    title = f"checking {settings.data_path.name}"
    with progress(title=title, unit="sample") as bar:
        for checked, found in pool.stream(check_block, missing()):
            problems += found
            bar.update(checked)
    raise_if_any(f"{settings.data_path}: not JSON", problems)
    if settings.data_path.suffix == ".jsonl" and first is not None:
        first = parse_numbered([first])[0][0]
    return count, has_as_written_turns(first)


def _blocks_of(path: Path) -> Iterator[Sequence[Any]]:
    """Yield the records of a file in blocks. A ``.jsonl`` is not read as a whole; its lines come with their numbers."""
    if path.suffix != ".jsonl":
        records = read_json_records(path)
        for start in range(0, len(records), RECORDS_OF_BLOCK):
            yield records[start : start + RECORDS_OF_BLOCK]
        return
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = ((number, line.removesuffix("\n")) for number, line in enumerate(file, 1) if line.strip())
            while block := list(islice(lines, RECORDS_OF_BLOCK)):
                yield block
    except (OSError, UnicodeDecodeError):
        read_text(path, "give a ChatML .json or .jsonl")  # raises the same error with its name
        raise


def _refuse_problems(settings: PackSettings, blocks: Iterable[int], count: int, drop_invalid: bool) -> int:
    """Return the number of invalid records, or refuse them."""
    offenders, invalid = [], 0
    for block in blocks:
        records = Shard(settings.records_file(block))
        for row in np.flatnonzero(records.fixed["is_valid"] == 0).tolist():
            sample_id, invalid = records.read_text("sample_id", row), invalid + 1
            offenders += [f"{sample_id}: {problem}" for problem in json.loads(records.read_text("problems", row))]
    refuse_problems(settings.data_path, count, count - invalid, offenders, drop_invalid)
    return invalid


def _find_uses(settings: PackSettings, blocks: Iterable[int]) -> Uses:
    hashes, places = [], []
    for block in blocks:
        uses = Shard(settings.uses_file(block))
        rows = np.flatnonzero(uses.fixed["is_used"])
        hashes.append(_hashes(uses, "key", rows))
        places.append(np.stack([np.full(len(rows), block), rows], axis=1))
    first_uses, clips = _first_and_numbers(hashes)
    return Uses(np.concatenate(places), clips, first_uses)


def _hashes(uses: Shard, name: str, rows: np.ndarray) -> np.ndarray:
    texts = [uses.read(name, row).tobytes() for row in rows.tolist()]
    joined = b"".join(hashlib.sha256(text).digest()[:HASH_BYTES] for text in texts)
    return np.frombuffer(joined, f"V{HASH_BYTES}")


def _first_and_numbers(hashes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return where each distinct hash is first, in this order; and for each hash the number of its first place."""
    _, first, inverse = np.unique(np.concatenate(hashes), return_index=True, return_inverse=True)
    order = np.argsort(first)
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(order))
    return first[order], numbers[inverse]


def _missing(settings: PackSettings, uses: Uses, source: CodeCache) -> dict[str, Any]:
    """Return the clips that have no codes, as :func:`encode_clips` takes them."""
    missing = {}
    for block, rows in _by_block(uses.places[uses.first_uses]):
        shard = Shard(settings.uses_file(block))
        for row in rows:
            if not shard.fixed["frames"][row]:
                clip, facts = clip_of_use(shard, row)
                missing[facts.key] = clip, facts
    # An earlier call may have encoded them after the blocks were checked.
    return {key: missing[key] for key in sorted(missing) if source.read(key) is None}


def _by_block(places: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    for block in np.unique(places[:, 0]).tolist():
        yield block, places[places[:, 0] == block, 1].tolist()


def _write_clips(settings: PackSettings, uses: Uses, pool: WorkerPool) -> list[Shard]:
    places = [tuple(place) for place in uses.places[uses.first_uses].tolist()]
    starts = range(0, len(places), CLIPS_OF_SHARD)
    jobs = (ClipsJob(settings, n, places[start : start + CLIPS_OF_SHARD]) for n, start in enumerate(starts))
    _run(write_clips, jobs, len(starts), pool, "packing codes", "shard")
    return [Shard(settings.clips_file(number)) for number in range(len(starts))]


def _sample_jobs(settings: PackSettings, blocks: Iterable[int], uses: Uses, frames: np.ndarray) -> Iterator[SamplesJob]:
    for block in blocks:
        clips = _clips_of_uses(settings, uses, block)
        yield SamplesJob(settings, block, clips, frames[clips])


def _clips_of_uses(settings: PackSettings, uses: Uses, block: int) -> np.ndarray:
    """Return the number of the clip of each use of a block; 0 for the uses of invalid records."""
    clips = np.zeros(len(Shard(settings.uses_file(block))), np.int32)
    own = uses.places[:, 0] == block
    clips[uses.places[own, 1]] = uses.clips[own]
    return clips


def _write_references(
    settings: PackSettings, blocks: Sequence[int], uses: Uses, same_speech: SameSpeech, pool: WorkerPool
) -> dict[str, Any]:
    """Write the shards of references, after those of clips. Return what the manifest says about them."""
    number = -(-len(uses.first_uses) // CLIPS_OF_SHARD)
    frames = np.concatenate([Shard(settings.clips_file(shard)).fixed["frames"] for shard in range(number)])
    targets = find_targets(settings, blocks, number, partial(_clips_of_uses, settings, uses))
    groups, remarks = same_speech.find(settings, targets, pool)
    jobs = list(reference_jobs(settings, targets, groups, frames))
    _run(write_references, jobs, len(jobs), pool, "packing references", "block")
    shards = [_entry(Shard(settings.references_file(job.block)), settings.folder) for job in jobs]
    return {**described_references(settings, same_speech, remarks), "shards": shards}


def _run(
    function: Callable[[Any], None], jobs: Iterable[Any], total: int, pool: WorkerPool, title: str, unit: str
) -> None:
    with progress(title=title, total=total, unit=unit) as bar:
        for _ in pool.stream(function, jobs):
            bar.update()


def _notes(settings: PackSettings, blocks: Iterable[int]) -> list[str]:
    """Return the messages about cuts that end after their files, and about silent clips, as training gives them."""
    hashes, silence, late, silent, count = [], [], {}, {}, 0
    for block in blocks:
        uses = Shard(settings.uses_file(block))
        rows = np.flatnonzero(uses.fixed["is_used"])
        hashes.append(_hashes(uses, "clip", rows))
        silence.append(uses.fixed["silent"][rows])
        for index in np.flatnonzero(uses.sizes("late")[rows]).tolist():
            late[count + index] = f"{uses.read_text('label', rows[index])}: {uses.read_text('late', rows[index])}"
        for index in np.flatnonzero(silence[-1] == SILENCE[True]).tolist():
            silent[count + index] = uses.read_text("label", rows[index])
        count += len(rows)
    first, _ = _first_and_numbers(hashes)
    unknown = int((np.concatenate(silence)[first] == SILENCE[None]).sum())
    place, firsts = str(settings.data_path), set(first.tolist())
    found = [[text for use, text in texts.items() if use in firsts] for texts in (late, silent)]
    return late_cut_warning(place, found[0]) + silence_warnings(place, found[1], unknown)


def _entry(shard: Shard, folder: Path) -> dict[str, Any]:
    name = shard.path.relative_to(folder).as_posix()
    return {"file": name, "rows": len(shard), "index_crc32": shard.checksum}


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
