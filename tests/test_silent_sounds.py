"""Silent clips are named by every command; channels that cancel each other and far too loud samples are refused."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import PreTrainedTokenizerBase

from boson_multimodal.audio_processing import silence_notes
from boson_multimodal.audio_processing.clip_encoding import silence_lines
from boson_multimodal.audio_processing.sound_levels import cancels, is_silent
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, load, make_cache, noise, record, write_clip, write_records
from tests.dataset.encoded_samples import SumCodec, encoded, no_codec
from tests.training_runs import trainer
from voice_cloning.corpora.encode import encode_files
from voice_cloning.data_check.check import check_files
from voice_cloning.speech.requests import check_references, request_of_text

RATE = 24_000
NOTHING_KNOWN = (
    "train.json: it is not known whether 3 clips are silent: their codes come from files or from an earlier release; "
    "python -m tools.prepare_data check finds silent clips"
)


def write_silence(path: Path, level: float = 0.0, offset: float = 0.0) -> None:
    """A second that is silent but for a tone of ``level``."""
    tone = level * np.sin(np.arange(RATE) / 20)
    soundfile.write(path, tone + offset, RATE, subtype="FLOAT")


def write_stereo(path: Path, left: float, right: float) -> None:
    voice = noise(1.0)[:, 0]
    soundfile.write(path, np.stack([left * voice, right * voice], axis=1), RATE)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two samples: the reference of both and the target of the second are silent."""
    write_silence(tmp_path / "ref.wav")
    write_clip(tmp_path / "0.wav", 0.5)
    write_silence(tmp_path / "1.wav", level=5e-5, offset=0.01)
    records = [record(f"s{i}", audio("ref.wav"), audio(f"{i}.wav")) for i in (0, 1)]
    return write_records(tmp_path / "train.json", records)


@pytest.mark.parametrize(
    ("level", "offset", "silent"),
    [(0.0, 0.0, True), (0.0, 0.3, True), (9e-5, 0.0, True), (1.1e-4, 0.0, False), (1.0, 0.0, False)],
)
def test_silence_is_what_stays_below_80_dbfs_around_its_mean(level: float, offset: float, silent: bool) -> None:
    assert is_silent((level * np.sin(np.arange(RATE) / 20) + offset).astype(np.float32)) == silent


@pytest.mark.parametrize(
    ("gains", "cancelled"),
    [
        ([[1, 0]], False),
        ([[1, 0], [-1, 0]], True),
        ([[1, 0], [-0.85, 0]], True),
        ([[1, 0], [-0.5, 0]], False),
        ([[1, 0], [0, 1]], False),
        ([[1, 0], [0, 0]], False),
        ([[1, 0], [1, 0]], False),
        ([[1, 0]] + 7 * [[0, 0]], False),
        ([[1, 0], [-1, 0], [0, 1], [0, -1]], True),
        ([[0, 0], [0, 0]], False),
        ([[1e-5, 0], [-1e-5, 0]], False),
    ],
)
def test_channels_cancel_if_one_is_the_other_inverted(gains: list[list[float]], cancelled: bool) -> None:
    """Each channel is a mixture of two voices that have nothing in common, with the given gains."""
    voices = np.concatenate([noise(0.5, seed=1), noise(0.5, seed=2)], axis=1)
    assert cancels((voices @ np.array(gains).T).astype(np.float32)) == cancelled


def test_the_trainer_names_silent_clips_before_training(
    demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the first start, and again when the codes come from the cache."""
    home = tmp_path / "home"
    shutil.copytree(demo, home, ignore=shutil.ignore_patterns("code_cache"))
    records = json.loads((home / "train_chatml_samples.json").read_text(encoding="utf-8"))
    target = records[0]["messages"][-1]["content"][-1]["audio_url"]
    samples, rate = soundfile.read(home / target)
    soundfile.write(home / target, 0 * samples, rate)
    caplog.set_level(logging.INFO)
    for attempt in ("first", "second"):
        caplog.clear()
        trainer(home, tmp_path / attempt, max_steps=1).train()
        messages = [entry.getMessage() for entry in caplog.records]
        at = next(i for i, message in enumerate(messages) if "clips are silent" in message)
        heading, *named = messages[at].splitlines()
        assert "train_chatml_samples.json: 1 clips are silent; a voice or a text cannot be learned" in heading
        assert len(named) == 1 and target in named[0]
        assert any("optimizer steps of" in message for message in messages[at + 1 :])
        assert not any("it is not known" in message for message in messages)


def test_what_is_known_of_cached_codes(data: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    cache = data.parent / "cache"
    encoded(load(data, tokenizer, make_cache(cache)), SumCodec())
    dataset = load(data, tokenizer, make_cache(cache))
    assert dataset.encode_missing(no_codec) == 0
    facts = {Path(used.clip.name).name: used.facts.is_silent for r in dataset.records for used in r.clips}
    assert facts == {"ref.wav": True, "0.wav": False, "1.wav": True}
    shutil.rmtree(cache / "silence")  # as earlier releases left it
    dataset = load(data, tokenizer, make_cache(cache))
    assert dataset.encode_missing(no_codec) == 0
    known = {used.clip.name: used.facts for r in dataset.records for used in r.clips}
    assert silence_lines(data.name, known) == [NOTHING_KNOWN]


def test_a_cache_without_room_for_notes_is_used(
    data: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be made, as in a read-only cache of an earlier release; then a disk that is full."""

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    cache = data.parent / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(silence_notes, "PackedStore", refuse)
        assert len(encoded(load(data, tokenizer, make_cache(cache)), SumCodec()).lengths)
    shutil.rmtree(cache)
    with monkeypatch.context() as patch:
        patch.setattr(silence_notes.PackedStore, "write", refuse)
        notes = silence_notes.SilenceNotes(cache / "silence")
        notes.write({"00" * 32: True})
        assert notes.of("00" * 32) is None


def test_silent_clips_are_listed_up_to_twenty(data: Path, demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = [record(f"s{i}", audio("0.wav"), audio("1.wav", offset=i / 100, duration=0.5)) for i in range(23)]
    write_records(data, many)
    encode_files([data], str(demo / "audio_tokenizer"), str(data.parent / "cache"))
    lines = capsys.readouterr().err.splitlines()
    heading = lines.index(f"warning: {data}: 23 clips are silent; a voice or a text cannot be learned from them:")
    assert lines[heading + 1] == "  1.wav#0.0,0.5"
    assert lines[heading + 21] == "  ... and 3 more"


def test_synthesis_names_silent_references(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = [
        request_of_text(name, "مرحبا", AudioContent(name), "صباح الخير", "voice_clone", data.parent)
        for name in ("0.wav", "ref.wav", "1.wav")
    ]
    frames, problems = check_references(requests)
    assert len(frames) == 3 and problems == []
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: 2 of 3 references are silent, so there is no voice to speak with:"
    assert lines[1:3] == [f"  {data.parent / name}" for name in ("ref.wav", "1.wav")]


def test_check_has_the_same_opinion(data: Path) -> None:
    write_stereo(data.parent / "stereo.wav", 1.0, -1.0)
    soundfile.write(data.parent / "loud.wav", 20_000 * noise(1.0), RATE, subtype="FLOAT")
    names = ("1.wav", "stereo.wav", "loud.wav")
    write_records(data, [record(name, audio("0.wav"), audio(name)) for name in names])
    report = check_files([data], data.parent / "report", num_workers=1)
    found = {entry["kind"]: entry["details"] for entry in (*report["errors"], *report["warnings"])}
    where = "messages[2].content[1].audio_url"
    assert found["mostly_silence"]["1.wav"] == f"{where}: silent: all of its 1.0 s are below -80 dBFS"
    assert "its channels cancel each other in mono" in found["cancelled_audio"]["stereo.wav"]
    assert found["mostly_silence"].keys() == {"1.wav", "stereo.wav"}, "the check of what is left in mono goes on"
    assert "times full scale; export it again, scaled to -1..1" in found["overscaled_audio"]["loud.wav"]


def test_the_trainer_refuses_what_can_never_be_right(data: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write_stereo(data.parent / "0.wav", 1.0, -0.9)
    soundfile.write(data.parent / "1.wav", 200 * noise(1.0), RATE, subtype="FLOAT")
    with pytest.raises(InputError) as error:
        load(data, tokenizer, make_cache(data.parent / "cache"))
    where = "messages[2].content[1].audio_url"
    assert f"s0: {where}: {data.parent / '0.wav'}: its channels cancel each other in mono; invert" in str(error.value)
    assert f"s1: {where}: {data.parent / '1.wav'}: its largest sample is " in str(error.value)


@pytest.mark.parametrize("level", [0.5, 1.0, 15.9])
def test_samples_up_to_16_times_full_scale_are_read(level: float, tmp_path: Path) -> None:
    wave = noise(0.5)
    soundfile.write(tmp_path / "a.wav", wave * (level / np.abs(wave).max()), RATE, subtype="FLOAT")
    request = request_of_text("a", "مرحبا", AudioContent("a.wav"), "صباح الخير", "voice_clone", tmp_path)
    assert check_references([request])[1] == []


BAD_SOURCES = {
    "a null byte": {"url": "clips/a\0b.wav"},
    "half a surrogate pair": {"url": "clips/a\ud800.wav"},
    "the other half": {"url": "clips/a\udc80\udfff.wav"},
    "a very long name": {"url": "a" * 5000},
    "a folder": {"url": "."},
    "a pipe": {"url": "pipe"},
    "raw audio that is no audio": {"url": None, "raw_audio": "bm8gYXVkaW8="},
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_check_writes_its_page_for_sources_that_cannot_be_read(name: str, data: Path) -> None:
    os.mkfifo(data.parent / "pipe")
    write_records(data, [record("a", audio("0.wav"), audio(**BAD_SOURCES[name]))])
    report = check_files([data], data.parent / "report", num_workers=1)
    (error,) = [entry for entry in report["errors"] if entry["kind"] == "unreadable_audio"]
    assert error["sample_ids"] == ["a"]
    written = (data.parent / "report" / "report.json").read_text(encoding="utf-8")
    assert "object at 0x" not in written and json.loads(written)["errors"] == report["errors"] or "ud800" in written
    page = (data.parent / "report" / "report.html").read_text(encoding="utf-8")
    assert "Unreadable audio" in page and "object at 0x" not in page


def test_a_broken_file_in_a_record_is_named_by_its_size(tmp_path: Path) -> None:
    broken = AudioContent(raw_audio=b"RIFF" + bytes(99))
    request = request_of_text("a", "مرحبا", broken, "صباح الخير", "voice_clone", tmp_path)
    (problem,) = check_references([request])[1]
    assert "103 bytes: not readable as audio (" in problem and "object at 0x" not in problem
