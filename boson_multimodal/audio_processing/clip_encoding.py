"""Clips -> codes in the cache: each clip is looked up or opened first, then what is missing is encoded."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.code_cache import CodeCache, FoundCodes
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError
from boson_multimodal.process_group import all_results, barrier, rank, share
from boson_multimodal.progress import progress

ENCODE_BATCH_SECONDS = {"cuda": 60.0, "cpu": 0.0}
"""Audio that one codec call takes at most, in clips of equal length; on a CPU they are faster one by one."""
READ_THREADS = 8
CHECKED_AT_ONCE = 512
"""Clips that wait for these threads: a million would take memory, and Ctrl-C would have to wait for them."""


class CodeSource(Protocol):
    """Where codes come from: a :class:`CodeCache`, or files of codes that someone else encoded."""

    num_codebooks: int

    def find(self, clip: Clip, name: str) -> FoundCodes: ...

    def key_of(self, clip: Clip) -> str: ...

    def read(self, key: str) -> Tensor | None: ...

    def place(self, key: str) -> str: ...


@dataclass(frozen=True)
class ClipUse:
    """A clip as records use it.

    Attributes:
        clip, name: the clip, and its name in files of codes (see ``codes_file.py``).
        is_coded: whether its codes are needed.
        is_heard: whether its waveform is: features are made of it.
    """

    clip: Clip
    name: str
    is_coded: bool = True
    is_heard: bool = False


@dataclass(frozen=True)
class ClipFacts:
    """What the check of one clip found.

    Attributes:
        key: its name in the cache.
        frames: code frames, where there are codes already.
        samples, sampling_rate: of its waveform, where it is still to be encoded or features are made of it.
        is_absent: its file is gone, its codes are there.
        problem: why it cannot be used.
    """

    key: str = ""
    frames: int | None = None
    samples: int = 0
    sampling_rate: int = 1
    is_absent: bool = False
    problem: str | None = None


def check_clips(
    uses: Sequence[ClipUse], source: CodeSource, frames_per_second: float, file_name: str
) -> list[ClipFacts]:
    """Look up or open every clip, each process its share. ``file_name`` is that of their records."""
    mine = share(uses)
    title = f"checking audio of {file_name}"
    results = []
    with (
        ThreadPoolExecutor(READ_THREADS) as pool,
        progress(title=title, total=len(mine), unit="clip", disable=rank() > 0) as bar,
    ):
        for start in range(0, len(mine), CHECKED_AT_ONCE):
            block = mine[start : start + CHECKED_AT_ONCE]
            for facts in pool.map(lambda use: _check_clip(use, source, frames_per_second), block):
                results.append(facts)
                bar.update()
    return all_results(results)


def encode_clips(
    missing: Mapping[str, tuple[Clip, ClipFacts]], cache: CodeCache, load_codec: Callable[[], HiggsAudioTokenizer]
) -> None:
    """Encode clips into the cache, those of equal length together, each process its share; then pack what is new.

    Args:
        missing: clips by key, with their lengths; the same in each process.
        load_codec: called only if there are any.

    Raises:
        InputError: if a clip changed since it was looked up, or the cache cannot be written to; what was encoded stays.
    """
    if not missing:
        cache.seal()
        return
    try:
        codec = load_codec()
        seconds = ENCODE_BATCH_SECONDS[codec.device.type]
        batches = share(_equal_length_batches([facts for _, facts in missing.values()], seconds))
        clips = sum(map(len, batches))
        with progress(title="encoding clips", total=clips, unit="clip", disable=rank() > 0) as bar:
            for keys in batches:
                waveforms = [_read_as_checked(missing[key][0], key, cache, codec.sampling_rate) for key in keys]
                for key, codes in zip(keys, codec.encode(torch.stack(waveforms)), strict=True):
                    cache.write(key, codes)
                bar.update(len(keys))
    finally:
        cache.seal()
    barrier()
    if rank() == 0:
        cache.compact()
    cache.store.refresh()


def _read_as_checked(clip: Clip, key: str, cache: CodeCache, sampling_rate: int) -> Tensor:
    """(samples,) of a clip that has the content it had when it was looked up: other codes must not go by its key."""
    samples = read_waveform(clip).resampled(sampling_rate)
    if cache.key_of(clip) != key:
        raise InputError(f"{clip.name}: has changed since this run looked at it; start again")
    return samples


def _check_clip(use: ClipUse, source: CodeSource, frames_per_second: float) -> ClipFacts:
    clip = use.clip
    try:
        found = source.find(clip, use.name) if use.is_coded else FoundCodes(source.key_of(clip))
        frames = None if found.codes_KT is None else found.codes_KT.shape[1]
        if frames is not None and not use.is_heard:
            return ClipFacts(found.key, frames, is_absent=found.is_absent)
        waveform = read_waveform(clip)
    except InputError as error:
        return ClipFacts(problem=str(error))
    if waveform.seconds * frames_per_second < 1:
        least = 1 / frames_per_second
        return ClipFacts(problem=f"{clip.name}: {waveform.seconds:g} s of audio; a clip has at least {least:g} s")
    return ClipFacts(found.key, frames, waveform.samples.numel(), waveform.sampling_rate)


def _equal_length_batches(clips: Sequence[ClipFacts], seconds: float) -> list[list[str]]:
    """Keys of clips grouped by exact length, ``seconds`` together at most, but at least one; longest first."""
    groups = defaultdict(list)
    for facts in clips:
        groups[facts.samples, facts.sampling_rate].append(facts.key)
    batches = []
    for (samples, rate), keys in sorted(groups.items(), key=lambda item: -item[0][0] / item[0][1]):
        size = max(1, int(seconds * rate / samples))
        batches += [keys[i : i + size] for i in range(0, len(keys), size)]
    return batches
