"""Folders of finished WAVs: what is read from them, and what is refused."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

from boson_multimodal.errors import InputError
from tests.chatml_files import write_clip
from voice_cloning.evaluation.finished_wavs import missing_wavs, read_wavs
from voice_cloning.speech.output_files import OutputFile
from voice_cloning.speech.speech import Speech, SpokenPiece

IDENTITY = {"settings": {"seed": 3}}


def speech(failure: str | None) -> Speech:
    return Speech(torch.zeros(4800) + 0.1, 24_000, (SpokenPiece("a", torch.zeros(8, 5), 0, failure),))


def test_clips_of_any_program_are_copied(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/a.wav", 0.4, rate=16_000, channels=2)
    (wav,) = read_wavs(tmp_path / "in", ["a"], tmp_path / "out", "in", 25.0)
    assert (wav.audio, wav.ended, wav.seed, wav.frames) == ("audio/in/a.wav", None, 0, 10)
    assert wav.seconds == pytest.approx(0.4)
    copy = soundfile.info(tmp_path / "out" / wav.audio)
    assert (copy.samplerate, copy.channels, copy.frames) == (16_000, 1, 6400)


def test_the_records_of_synthesize_say_whether_a_clip_ended(tmp_path: Path) -> None:
    OutputFile(tmp_path / "a.wav").write(speech(None), IDENTITY, keep_runaway=True)
    OutputFile(tmp_path / "b.wav").write(speech("runaway"), IDENTITY, keep_runaway=True)
    assert (tmp_path / "b.runaway.wav").is_file()
    found = read_wavs(tmp_path, ["a", "b"], tmp_path / "out", "in", 25.0)
    assert [(wav.ended, wav.seed) for wav in found] == [(True, 3), (False, 3)]


def test_missing_damaged_and_foreign_files_are_named_together(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav")
    assert missing_wavs(tmp_path, ["a", "b", "c"]) == [f"--wavs {tmp_path}: no {name}.wav" for name in "bc"]
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    OutputFile(tmp_path / "c.wav").write(speech(None), IDENTITY, keep_runaway=True)
    write_clip(tmp_path / "c.wav")
    write_clip(tmp_path / "d.wav")
    (tmp_path / "d.wav.json").write_text(json.dumps({"failures": []}), encoding="utf-8")
    with pytest.raises(InputError) as raised:
        read_wavs(tmp_path, list("abcd"), tmp_path / "out", "in", 25.0)
    message = str(raised.value)
    assert f"{tmp_path / 'b.wav'}" in message
    assert f"{tmp_path / 'c.wav'}: is not the clip that c.wav.json describes" in message
    assert f"{tmp_path / 'd.wav.json'}: is no record of tools.synthesize" in message
