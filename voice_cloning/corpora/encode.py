"""Encodes the clips of ChatML files into the code cache before training."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from arabic_voice_cloning_dataset import parse_record, read_json_records, sample_id_of
from boson_multimodal.audio_processing.clip_encoding import (
    ClipFacts,
    ClipUse,
    check_clips,
    encode_clips,
    late_cut_lines,
    silence_lines,
)
from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.codes_file import codes_name, write_codes_file
from boson_multimodal.audio_processing.higgs_audio_tokenizer import codec_config, load_higgs_audio_tokenizer
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError, call_for_each, raise_if_any
from boson_multimodal.process_group import rank, wait_for_all
from voice_cloning.training.data import find_codec


@dataclass(frozen=True)
class EncodeSummary:
    """The result of :func:`encode_files`.

    Attributes:
        clips: number of different clips in the files.
        seconds_of_audio: length of these clips together.
        encoded: number of these clips that the cache lacked.
        files, entries, bytes: size of this codec's whole cache.
        seconds: duration of the call.
    """

    clips: int
    seconds_of_audio: float
    encoded: int
    files: int
    entries: int
    bytes: int
    seconds: float


def encode_files(
    files: Sequence[Path],
    codec_path: str,
    code_cache_dir: str,
    *,
    revision: str | None = None,
    drop_invalid: bool = False,
    export: Path | None = None,
    device: torch.device | str = "cpu",
) -> EncodeSummary:
    """Encode the clips of ``files`` that the cache lacks, verify all clips, and pack the cache.

    Raises:
        InputError: if files are not ChatML; if samples are invalid, with a list of all problems (with ``drop_invalid``
            only if all are); if two different clips have one name in the export; or if the cache or the export cannot
            be written.
    """
    started = time.monotonic()
    if export is not None and (export.is_dir() or not export.parent.is_dir()):  # checked before days of encoding
        raise InputError(f"--export {export}: give the name of a file, in a folder that is there")
    codec = find_codec(codec_path, revision, Path(code_cache_dir), "--codec")
    config = codec_config(codec.folder)
    cache = CodeCache(Path(code_cache_dir), codec.identity, config.num_quantizers, config.codebook_size)
    found = _check_files(files, cache, config.frame_rate, drop_invalid)
    names = _names(found, export) if export is not None else {}
    clips = {facts.key: (use.clip, facts) for use, facts in found}
    missing = {key: clips[key] for key in sorted(clips) if clips[key][1].frames is None}
    encode_clips(missing, cache, lambda: load_higgs_audio_tokenizer(codec.folder, device))
    if rank() == 0:
        place = ", ".join(map(str, files))
        lines = late_cut_lines(place, {use.name: (use.clip, facts) for use, facts in found}, config.frame_rate)
        lines += silence_lines(place, {use.name: facts for use, facts in found})
        print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)
    frames = {key: facts.frames or _read(cache, key).shape[1] for key, (_, facts) in clips.items()}
    if export is not None and rank() == 0:
        shapes = {name: (cache.num_codebooks, frames[key]) for name, key in names.items()}
        codes = (_read(cache, key) for key in names.values())
        write_codes_file(export, shapes, codes, codec.identity, config.frame_rate)
    wait_for_all()
    seconds_of_audio = sum(frames.values()) / config.frame_rate
    return EncodeSummary(
        len(clips), seconds_of_audio, len(missing), *cache.store.sizes(), seconds=time.monotonic() - started
    )


def _check_files(
    files: Sequence[Path], cache: CodeCache, frames_per_second: float, drop_invalid: bool
) -> list[tuple[ClipUse, ClipFacts]]:
    """Return each clip of the valid samples with the facts that the cache has on it.

    Raises:
        InputError: naming every file that is not ChatML; or listing the problems of all files, unless ``drop_invalid``.
    """
    read = dict(zip(files, call_for_each(_read_samples, files), strict=True))
    kept, refused = [], []
    for path, (samples, problems) in read.items():
        uses = {use: None for _, contents in samples for use, _ in contents}
        facts = dict(zip(uses, check_clips(list(uses), cache, frames_per_second, path.name), strict=True))
        for sample_id, contents in samples:
            found = [f"{sample_id}: {where}: {facts[u].problem}" for u, where in contents if facts[u].problem]
            problems += found
            kept += [] if found else [(use, facts[use]) for use, _ in contents]
        if problems and drop_invalid and rank() == 0:
            print(f"{path}: {len(problems)} problems; their samples are left out", file=sys.stderr)
        if problems and not drop_invalid:
            refused.append((path, problems))
    offenders = [f"{path}: {problem}" for path, problems in refused for problem in problems]
    raise_if_any("invalid samples (--drop_invalid leaves them out)", offenders)
    if not kept:
        raise InputError(f"{', '.join(map(str, files))}: no sample is valid")
    return list(dict(kept).items())


Contents = list[tuple[ClipUse, str]]
"""The clips of a sample, each with its field in the record."""


def _read_samples(path: Path) -> tuple[list[tuple[str, Contents]], list[str]]:
    """Return the valid samples of a file with their ids, and the problems of the others."""
    samples, problems = [], []
    for number, raw in enumerate(read_json_records(path)):
        sample_id = sample_id_of(raw, number)
        sample, found = parse_record(raw, "as_written")
        problems += [f"{sample_id}: {problem}" for problem in found]
        if sample is not None and not found:
            contents = [(ClipUse(Clip.of(c, path.parent), codes_name(c)), c.where) for _, c in sample.clips()]
            samples.append((sample_id, contents))
    return samples, problems


def _names(found: Sequence[tuple[ClipUse, ClipFacts]], export: Path) -> dict[str, str]:
    """Return the cache key of each clip by its name in a file of codes.

    Raises:
        InputError: listing the names that two different clips have.
    """
    names: dict[str, str] = {}
    problems = []
    for use, facts in found:
        if names.setdefault(use.name, facts.key) != facts.key:
            problems.append(f"{use.name}: also {use.clip.name}")
    raise_if_any(f"--export {export}: names of two different clips; export each data file to its own", problems)
    return dict(sorted(names.items()))


def _read(cache: CodeCache, key: str) -> torch.Tensor:
    codes = cache.read(key)
    if codes is None:
        raise InputError(f"{cache.place(key)}: not there after encoding; is the disk full or not shared?")
    return codes
