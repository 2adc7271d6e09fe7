"""Check every clip, then encode into the cache the clips that it lacks."""

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
from boson_multimodal.audio_processing.sound_files import CUT_TOLERANCE_SECONDS, Clip
from boson_multimodal.errors import InputError, listed
from boson_multimodal.process_group import rank, world_size
from boson_multimodal.progress import progress
from boson_multimodal.teams import Team

ENCODE_BATCH_SECONDS = {"cuda": 60.0, "cpu": 0.0}
"""The most audio (seconds) of one codec call, for clips of equal length. On a CPU one clip at a time is faster."""
READ_THREADS = 8
CHECKED_AT_ONCE = 512
"""The number of clips queued for the threads. A queue of a million would use much memory and delay Ctrl-C."""


class CodeSource(Protocol):
    """A source of codes: a :class:`CodeCache`, or files of codes (``CodesFiles``)."""

    num_codebooks: int

    @property
    def team(self) -> Team: ...

    def find(self, clip: Clip, name: str) -> FoundCodes: ...

    def key_of(self, clip: Clip) -> str: ...

    def read(self, key: str) -> Tensor | None: ...

    def place(self, key: str) -> str: ...


@dataclass(frozen=True)
class ClipUse:
    """What the records need of a clip.

    Attributes:
        clip, name: the clip, and its name in files of codes (see ``codes_file.py``).
        is_coded: whether its codes are needed.
        is_heard: whether its waveform is needed, to compute features from it.
    """

    clip: Clip
    name: str
    is_coded: bool = True
    is_heard: bool = False


@dataclass(frozen=True)
class ClipFacts:
    """The result of the check of one clip.

    Attributes:
        key: the clip's name in the cache.
        frames: the number of code frames if the codes exist already, else None.
        samples, sampling_rate: the length (samples) and rate (Hz) of the waveform. They are set only if the clip has
            no codes yet or if its waveform is needed.
        is_absent: whether the clip's file no longer exists although its codes do.
        is_silent: whether the clip is silent; None if that is not known, because its codes do not say it.
        problem: why the clip cannot be used; None if it can.
    """

    key: str = ""
    frames: int | None = None
    samples: int = 0
    sampling_rate: int = 1
    is_absent: bool = False
    is_silent: bool | None = None
    problem: str | None = None


def check_clips(
    uses: Sequence[ClipUse],
    source: CodeSource,
    frames_per_second: float,
    file_name: str,
    *,
    is_quiet: bool = False,
) -> list[ClipFacts]:
    """Look up the codes of every clip, and open the clip if it has none or if its waveform is needed.

    The processes that share the source divide the clips, and each gets the results of all. ``file_name``, the file of
    the records, is shown in the progress bar, unless ``is_quiet`` is set.
    """
    team = _team_of(source)
    mine = team.share(uses)
    title = f"checking audio of {file_name}"
    results = []
    with (
        ThreadPoolExecutor(READ_THREADS) as pool,
        progress(title=title, total=len(mine), unit="clip", disable=is_quiet or rank() > 0) as bar,
    ):
        for start in range(0, len(mine), CHECKED_AT_ONCE):
            block = mine[start : start + CHECKED_AT_ONCE]
            for facts in pool.map(lambda use: _check_clip(use, source, frames_per_second), block):
                results.append(facts)
                bar.update()
    return team.all_results(results)


def encode_clips(
    missing: Mapping[str, tuple[Clip, ClipFacts]], cache: CodeCache, load_codec: Callable[[], HiggsAudioTokenizer]
) -> None:
    """Encode clips into the cache, clips of equal length together; then pack the new codes.

    The processes that share the cache divide the clips.

    Args:
        missing: clips and their lengths by key. All processes that share the cache must get the same.
        load_codec: returns the codec. It is called only if a clip is missing.

    Raises:
        InputError: if a clip changed after :func:`check_clips`, or the cache cannot be written to. Codes that were
            written before the error stay in the cache.
    """
    if not missing:
        cache.seal()
        return
    team, silent = _team_of(cache), dict[str, bool]()
    try:
        codec = load_codec()
        seconds = ENCODE_BATCH_SECONDS[codec.device.type]
        batches = team.share(_equal_length_batches([facts for _, facts in missing.values()], seconds))
        clips = sum(map(len, batches))
        with progress(title="encoding clips", total=clips, unit="clip", disable=rank() > 0) as bar:
            for keys in batches:
                waveforms = [_read_as_checked(missing[key][0], key, cache, codec.sampling_rate) for key in keys]
                for key, codes in zip(keys, codec.encode(torch.stack(waveforms)), strict=True):
                    cache.write(key, codes)
                    silent[key] = bool(missing[key][1].is_silent)
                if len(silent) >= CHECKED_AT_ONCE:
                    cache.silence.write(silent)
                    silent = {}
                bar.update(len(keys))
    finally:
        cache.silence.write(silent)
        cache.seal()
    team.wait_for_all()
    if team.rank == 0:
        cache.compact()
    cache.store.refresh()


def _team_of(source: CodeSource) -> Team:
    """Return this process among those that share a source. The first time all processes must come together."""
    return Team() if world_size() == 1 else source.team


def _read_as_checked(clip: Clip, key: str, cache: CodeCache, sampling_rate: int) -> Tensor:
    """Return the (samples,) of a clip, resampled. Its content must still match ``key``, under which codes are stored.

    Raises:
        InputError: if the content of the clip has changed since :func:`check_clips`.
    """
    samples = read_waveform(clip).resampled(sampling_rate)
    if cache.key_of(clip) != key:
        raise InputError(f"{clip.name}: has changed since this run checked it; start again")
    return samples


def _check_clip(use: ClipUse, source: CodeSource, frames_per_second: float) -> ClipFacts:
    clip = use.clip
    try:
        found = source.find(clip, use.name) if use.is_coded else FoundCodes(source.key_of(clip))
        frames = None if found.codes_KT is None else found.codes_KT.shape[1]
        if frames is not None and not use.is_heard:
            return ClipFacts(found.key, frames, is_absent=found.is_absent, is_silent=found.is_silent)
        waveform = read_waveform(clip)
    except InputError as error:
        return ClipFacts(problem=str(error))
    if waveform.seconds * frames_per_second < 1:
        least = 1 / frames_per_second
        return ClipFacts(problem=f"{clip.name}: {waveform.seconds:g} s of audio; a clip has at least {least:g} s")
    samples, rate = waveform.samples.numel(), waveform.sampling_rate
    return ClipFacts(found.key, frames, samples, rate, is_silent=waveform.is_silent)


def late_cut_lines(place: str, cuts: Mapping[str, tuple[Clip, ClipFacts]], frames_per_second: float) -> list[str]:
    """Return a warning that names the cuts that end after their file, because their texts say more than their audio.

    Args:
        place: the file of the records.
        cuts: clips with their facts, by the clip's name in messages.
    """
    found = ((name, late_cut(clip, facts, frames_per_second)) for name, (clip, facts) in cuts.items())
    return late_cut_warning(place, [f"{name}: {problem}" for name, problem in found if problem])


def late_cut(clip: Clip, facts: ClipFacts, frames_per_second: float) -> str:
    """Return what is asked for and what is there if a cut ends after its file; else an empty string."""
    seconds = facts.samples / facts.sampling_rate if facts.frames is None else facts.frames / frames_per_second
    # The number of frames gives a length to within one frame.
    if clip.duration is None or clip.duration <= seconds + CUT_TOLERANCE_SECONDS + 1 / frames_per_second:
        return ""
    return f"{clip.duration:g} s from {clip.offset:g} s on are asked for, {seconds:.2f} s are there"


def late_cut_warning(place: str, late: Sequence[str]) -> list[str]:
    """Return a warning about late cuts, or an empty list if there are none."""
    heading = f"warning: {place}: {len(late)} cuts end after their files; their texts may say more than their audio"
    return ["\n".join(listed(heading, late))] if late else []


def silence_lines(place: str, clips: Mapping[str, ClipFacts]) -> list[str]:
    """Return a warning that names the silent clips, and a line about the clips of which this is not known.

    Args:
        place: the file of the records.
        clips: facts by the clip's name in messages.
    """
    silent = [name for name, facts in clips.items() if facts.is_silent]
    return silence_warnings(place, silent, sum(facts.is_silent is None for facts in clips.values()))


def silence_warnings(place: str, silent: Sequence[str], unknown: int) -> list[str]:
    """Return the messages about silent clips, and about the number of clips of which this is unknown."""
    lines = []
    if silent:
        heading = f"warning: {place}: {len(silent)} clips are silent; a voice or a text cannot be learned from them"
        lines.append("\n".join(listed(heading, silent)))
    if unknown:
        whose = "their codes come from files or from an earlier release"
        advice = "python -m tools.prepare_data check finds silent clips"
        lines.append(f"{place}: it is not known whether {unknown} clips are silent: {whose}; {advice}")
    return lines


def _equal_length_batches(clips: Sequence[ClipFacts], seconds: float) -> list[list[str]]:
    """Return batches of keys, longest clips first.

    The clips of a batch have exactly the same length and together at most ``seconds``; a batch has at least one clip.
    """
    groups = defaultdict(list)
    for facts in clips:
        groups[facts.samples, facts.sampling_rate].append(facts.key)
    batches = []
    for (samples, rate), keys in sorted(groups.items(), key=lambda item: -item[0][0] / item[0][1]):
        size = max(1, int(seconds * rate / samples))
        batches += [keys[i : i + size] for i in range(0, len(keys), size)]
    return batches
