"""The clips that a test set brings with it: references, true recordings, and recordings through the codec.

They are copied into the folder of the evaluation, where the page plays them, and judged like the speech of a system:
every figure needs its scale.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from boson_multimodal.audio_processing.clips import frames_of, read_waveform
from boson_multimodal.audio_processing.codes_file import CodesFiles, codes_name
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, call_for_each, raise_if_any
from boson_multimodal.process_group import Ranks
from boson_multimodal.progress import progress
from boson_multimodal.whole_files import write_whole
from voice_cloning.evaluation.judgement import Sound
from voice_cloning.evaluation.spoken_files import AUDIO_FOLDER, ClipFile
from voice_cloning.evaluation.test_sets import TestItem
from voice_cloning.speech.voice_cloner import VoiceCloner

REFERENCE, RECORDING, THROUGH_CODEC = "reference", "recording", "recording_codec"
"""Folders under ``audio``."""


@dataclass(frozen=True)
class Original:
    """A clip of the test set.

    Attributes:
        audio: the path of its copy in the folder of the evaluation; None if there are only codes.
        sound: the clip to judge; None if there is neither a waveform nor codes.
        seconds, frames: its length, the second in frames of the codec.
    """

    audio: str | None
    sound: Sound | None
    seconds: float
    frames: int


@dataclass(frozen=True)
class Originals:
    """The clips of a set by item. An item without the clip is not in the dictionary."""

    references: dict[str, Original]
    recordings: dict[str, Original]
    through_codec: dict[str, Original]


def items_with_recordings(
    items: Sequence[TestItem], codes: CodesFiles | None
) -> tuple[dict[str, AudioContent], list[str]]:
    """Return the recordings that exist by item, and a warning if none of those that the set names does.

    Raises:
        InputError: if some exist and others do not. It lists those.
    """
    named = {item.name: item for item in items if item.recording is not None}
    missing = {
        name: item.recording.audio_url
        for name, item in named.items()
        if not _holds(codes, item.recording) and _is_absent(Clip.of(item.recording, item.base_dir))
    }
    if missing and len(missing) == len(named):
        which = f"none of the {len(named)} recordings that the set names exists, such as {next(iter(missing.values()))}"
        return {}, [f"{which}: lengths and voices are not compared with them"]
    raise_if_any(
        "recordings of the test set that do not exist, while others do",
        [f"{name}: {url}: no such file" for name, url in missing.items()],
    )
    return {name: item.recording for name, item in named.items()}, []


def copy_originals(
    items: Sequence[TestItem],
    recordings: dict[str, AudioContent],
    folder: Path,
    codes: CodesFiles | None,
    frames_per_second: float,
    ranks: Ranks,
) -> tuple[dict[str, Original], dict[str, Original]]:
    """Copy references and recordings into the folder of the evaluation. All ranks take part.

    Returns:
        References and recordings by item.

    Raises:
        InputError: listing the clips that cannot be read, or if a copy cannot be written.
    """
    wanted = [(REFERENCE, item, item.reference) for item in items if item.reference is not None]
    wanted += [(RECORDING, item, recordings[item.name]) for item in items if item.name in recordings]
    own = wanted[ranks.rank :: ranks.world_size]

    def copied(one: tuple[str, TestItem, AudioContent]) -> Original:
        kind, item, content = one
        return _copy(content, item, kind, folder, codes, frames_per_second)

    with ranks.failing_together():
        shown = progress(own, "copying clips of the set", unit="clip", disable=not ranks.is_main)
        found = {(kind, item.name): o for (kind, item, _), o in zip(own, call_for_each(copied, shown), strict=True)}
    together: dict[tuple[str, str], Original] = {}
    for of_rank in ranks.gather(found):
        together |= of_rank
    of_kind = {kind: {name: o for (k, name), o in together.items() if k == kind} for kind in (REFERENCE, RECORDING)}
    return of_kind[REFERENCE], of_kind[RECORDING]


def through_codec(
    items: Sequence[TestItem], recordings: dict[str, AudioContent], folder: Path, cloner: VoiceCloner, ranks: Ranks
) -> dict[str, Original]:
    """Return the recordings as the codec gives them back: what a perfect model would speak. All ranks take part.

    Without a codec, they are the codes in the files of codes.
    """
    wanted = [item for item in items if item.name in recordings]
    own = wanted[ranks.rank :: ranks.world_size]
    found: dict[str, tuple[str | None, str, float, int]] = {}
    with ranks.failing_together():
        for item in progress(own, "recordings through the codec", unit="clip", disable=not ranks.is_main):
            found[item.name] = _decoded(item, recordings[item.name], folder, cloner)
    together: dict[str, tuple[str | None, str, float, int]] = {}
    for of_rank in ranks.gather(found):
        together |= of_rank
    return {item.name: _original(folder, item.name, *together[item.name]) for item in wanted}


def _copy(
    content: AudioContent, item: TestItem, kind: str, folder: Path, codes: CodesFiles | None, frames_per_second: float
) -> Original:
    clip = Clip.of(content, item.base_dir)
    frames = codes.find(None, codes_name(content)).codes_KT.shape[1] if _holds(codes, content) else None
    if frames is not None and _is_absent(clip):
        return Original(None, None, frames / frames_per_second, frames)
    waveform = read_waveform(clip)
    name = f"{AUDIO_FOLDER}/{kind}/{item.name}.wav"
    wav = wav_bytes(waveform.samples, waveform.sampling_rate)
    write_if_new(folder / name, wav)
    if frames is None:
        frames = max(1, frames_of(waveform.samples.numel(), waveform.sampling_rate, frames_per_second))
    sound = Sound(hashlib.sha256(wav).hexdigest(), folder / name)
    return Original(name, sound, waveform.seconds, frames)


def _decoded(
    item: TestItem, content: AudioContent, folder: Path, cloner: VoiceCloner
) -> tuple[str | None, str, float, int]:
    """Return the path of the WAV, the hash, the seconds and the frames of a recording through the codec."""
    file = ClipFile(folder, THROUGH_CODEC, item.name)
    made_of = cloner.clip_identity(content, item.base_dir)
    record = file.found(made_of)
    if record is None:
        started = time.perf_counter()
        codes_KT = cloner.clips.of(content, item.base_dir)
        frames, samples, rate = codes_KT.shape[1], None, 0
        if not cloner.speaks_codes_only:
            samples, rate = _decode(codes_KT, cloner), cloner.codec.sampling_rate
        seconds = frames / cloner.frames_per_second if samples is None else samples.numel() / rate
        spent = round(time.perf_counter() - started, 4)
        facts = {"ended": True, "failures": [], "frames": frames, "seconds": seconds}
        record = file.write(made_of, codes_KT, samples, rate, **facts, compute_seconds=spent, peak_memory_gb=0.0)
    audio = None if record.audio_sha256 is None else file.audio_name
    return audio, record.sha256, record.seconds, record.frames


def _decode(codes_KT: Tensor, cloner: VoiceCloner) -> Tensor:
    return cloner.codec.decode(codes_KT).float()


def _original(folder: Path, name: str, audio: str | None, key: str, seconds: float, frames: int) -> Original:
    file = ClipFile(folder, THROUGH_CODEC, name)
    return Original(audio, Sound(key, audio and folder / audio, file.codes_KT), seconds, frames)


def _holds(codes: CodesFiles | None, content: AudioContent) -> bool:
    return codes is not None and codes.holds(codes_name(content))


def _is_absent(clip: Clip) -> bool:
    return isinstance(clip.source, Path) and not os.path.exists(clip.source)


def write_if_new(path: Path, content: bytes) -> None:
    """Write a file unless it has this content already.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
