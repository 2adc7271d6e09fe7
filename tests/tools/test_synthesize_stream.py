"""``synthesize --stream``: raw sound on the standard output, everything else on the standard error."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.wav_encoding import pcm_bytes
from boson_multimodal.command_line import INTERRUPTED, UNREAD
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.standard_streams import _Descriptor
from tests.chatml_files import write_clip
from tests.voice_cloning.speech.random_models import RandomModel
from tools import synthesize as tool
from voice_cloning.speech import voice_cloner
from voice_cloning.speech.streaming import StreamedSound, stream_speech

NEVER, SOON = 0.0, 0.004
"""The chance that a code ends the speech."""


@pytest.fixture
def words(demo: Path, tmp_path: Path) -> list[str]:
    """The flags of a stream."""
    voice = write_clip(tmp_path / "voice.wav", 3.0)
    given = ["--model_path", demo / "model", "--audio_tokenizer_path", demo / "audio_tokenizer", "--device", "cpu"]
    given += ["--stream", "--text", "نعم", "--reference", voice, "--reference_text", "لا"]
    return [str(word) for word in given]


@pytest.fixture
def random_model(demo: Path, codec: HiggsAudioTokenizer, monkeypatch: pytest.MonkeyPatch) -> RandomModel:
    """Replace the model of every cloner by one that draws random codes."""
    model = RandomModel(HiggsAudioConfig.from_pretrained(demo / "model"), SOON, seed=3)
    monkeypatch.setattr(voice_cloner, "load_speaking_model", lambda *_: model)
    monkeypatch.setattr(voice_cloner, "load_higgs_audio_tokenizer", lambda *_: codec)
    return model


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[StreamedSound]:
    """Note each piece of sound that the command gets."""
    sounds: list[StreamedSound] = []

    def noted(*asked: object) -> Iterator[StreamedSound]:
        for sound in stream_speech(*asked):
            sounds.append(sound)
            yield sound

    monkeypatch.setattr(tool, "stream_speech", noted)
    return sounds


def test_the_standard_output_has_the_sound_and_nothing_else(
    words: list[str], random_model: RandomModel, heard: list[StreamedSound], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert tool.main(words) == 0
    output, messages = capfdbinary.readouterr()
    assert output == b"".join(pcm_bytes(sound.samples) for sound in heard) and len(heard) > 2
    assert len(np.frombuffer(output, "<i2")) == heard[-1].spoken.codes.shape[1] * 960
    said = messages.decode()
    assert "raw samples, 16 bits little-endian, mono, 24000 Hz" in said and "one attempt each" in said
    assert "first sound after" in said and "and 12 columns" in said
    assert f"{len(output) / 48_000:.2f} s of speech" in said and "Traceback" not in said


def test_a_runaway_is_cut_and_reported_after_its_sound(
    words: list[str], random_model: RandomModel, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    random_model.eos_chance = NEVER
    assert tool.main(words) == tool.RUNAWAY_STATUS
    output, messages = capfdbinary.readouterr()
    assert len(output) == 2 * 960 * 80, "3.2 s, like the file of a runaway"
    assert "error: runaway: no end within 3.2 s: 'نعم'" in messages.decode()


def test_a_player_that_goes_away_ends_the_stream_without_a_word(
    words: list[str], random_model: RandomModel, heard: list[StreamedSound], monkeypatch: pytest.MonkeyPatch
) -> None:
    random_model.eos_chance = NEVER
    reading, writing = os.pipe()
    os.close(reading)
    raw = _Descriptor(writing, was_closed=False)
    messages = io.StringIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BufferedWriter(raw)))
    monkeypatch.setattr("sys.stderr", messages)
    assert tool.main(words) == UNREAD
    os.close(writing)
    assert len(heard) == 1, "no more is generated than the player has heard"
    assert "error" not in messages.getvalue() and "Traceback" not in messages.getvalue()


def test_an_interrupt_ends_the_stream_cleanly(
    words: list[str],
    random_model: RandomModel,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    def interrupted(*asked: object) -> Iterator[StreamedSound]:
        yield next(stream_speech(*asked))
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "stream_speech", interrupted)
    assert tool.main(words) == INTERRUPTED
    output, messages = capfdbinary.readouterr()
    assert len(output) == 2 * 960
    assert messages.decode().splitlines()[-1] == "interrupted; the sound so far is sent"


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (["--output", "a.wav"], ["--output cannot be combined with --stream"]),
        (
            ["--manifest", "m.json", "--output_dir", "d"],
            ["--manifest cannot be combined with --stream", "--output_dir cannot be combined with --stream"],
        ),
        (["--keep_runaways"], ["--keep_runaways cannot be combined with --stream"]),
    ],
)
def test_flags_that_write_files_are_refused(
    words: list[str], further: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main([*words, *further]) == 1
    printed = capsys.readouterr().err
    assert all(message in printed for message in said), printed


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--stream", "--text", "نعم"]) == 1
    printed = capsys.readouterr().err
    assert "--reference is missing; --stream needs it" in printed and "--output" not in printed


def test_a_terminal_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert tool.main(words) == 1
    assert "--stream: the standard output is a terminal; send the sound to a player" in capsys.readouterr().err
