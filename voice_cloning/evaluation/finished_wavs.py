"""Folders of finished WAVs as systems: ID.wav for each item, from any program, or the output of tools.synthesize."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boson_multimodal.audio_processing.clips import frames_of, read_waveform
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.errors import InputError, call_for_each, raise_if_any
from voice_cloning.evaluation.judgement import Sound
from voice_cloning.evaluation.originals import write_if_new
from voice_cloning.evaluation.spoken_files import AUDIO_FOLDER
from voice_cloning.speech.output_files import OutputFile


@dataclass(frozen=True)
class FinishedWav:
    """One clip of a folder.

    Attributes:
        audio: the path of its copy in the folder of the evaluation.
        sound: the clip to judge.
        ended: whether its model ended it by itself; None if nothing says so.
        seed: the seed in the record of tools.synthesize, else 0.
        seconds, frames: its length, the second in frames of the codec.
    """

    audio: str
    sound: Sound
    ended: bool | None
    seed: int
    seconds: float
    frames: int


def missing_wavs(folder: Path, names: Sequence[str]) -> list[str]:
    """Return a problem for each item without a WAV in the folder. A runaway that was kept is one."""
    return [
        f"--wavs {folder}: no {name}.wav" for name in names if not any(path.is_file() for path in _paths(folder, name))
    ]


def read_wavs(
    folder: Path, names: Sequence[str], output: Path, system: str, frames_per_second: float
) -> list[FinishedWav]:
    """Read the clips of a folder, and copy them into the folder of the evaluation.

    Raises:
        InputError: listing the clips that are missing, or that cannot be read.
    """
    raise_if_any("folders of WAVs that lack clips", missing_wavs(folder, names))
    return call_for_each(lambda name: _read(folder, name, output, system, frames_per_second), names)


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    file = OutputFile(folder / f"{name}.wav")
    return file.path, file.runaway_path


def _read(folder: Path, name: str, output: Path, system: str, frames_per_second: float) -> FinishedWav:
    path = next(path for path in _paths(folder, name) if path.is_file())
    waveform = read_waveform(Clip(path, 0.0, None))
    wav = wav_bytes(waveform.samples, waveform.sampling_rate)
    copy = f"{AUDIO_FOLDER}/{system}/{name}.wav"
    write_if_new(output / copy, wav)
    ended, seed = _of_record(path)
    frames = frames_of(waveform.samples.numel(), waveform.sampling_rate, frames_per_second)
    sound = Sound(hashlib.sha256(wav).hexdigest(), output / copy)
    return FinishedWav(copy, sound, ended, seed, waveform.seconds, max(1, frames))


def _of_record(path: Path) -> tuple[bool | None, int]:
    """Return whether the clip ended by itself, and its seed, from the record that tools.synthesize writes beside it.

    Raises:
        InputError: if the record is damaged, or belongs to another WAV.
    """
    record_path = path.with_name(f"{path.name}.json")
    if not record_path.is_file():
        return None, 0
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        found = not record["failures"], int(record["made_of"]["settings"]["seed"])
        is_whole = record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record_path}: is no record of tools.synthesize ({error}); remove it, or speak the clip again"
        ) from error
    if not is_whole:
        raise InputError(
            f"{path}: is not the clip that {record_path.name} describes; speak it again, or remove the record"
        )
    return found
