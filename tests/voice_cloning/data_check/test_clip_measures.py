"""Tests of clip measures on sounds with known values, and on damaged files."""

import io
import random
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from boson_multimodal.audio_processing.sound_files import BLOCK_SAMPLES, Clip, read_samples
from boson_multimodal.errors import InputError
from voice_cloning.data_check import clip_measures
from voice_cloning.data_check.clip_measures import (
    clipped_share,
    frame_levels,
    measure_clip,
    measure_file,
    pitch,
    silence,
)

RATE = 24_000
FORMS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
FORMS += [("AIFF", None), ("W64", None), ("AU", None)]


def sine(hertz: float, seconds: float, level: float = 0.5) -> np.ndarray:
    """Return a tone as (samples,)."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def pulses(hertz: float, seconds: float, lowest: float = 0) -> np.ndarray:
    """Return a voice-like sound as (samples,): harmonics above ``lowest`` Hz that fall by 6 dB an octave."""
    return sum(sine(k * hertz, seconds, 0.2 / k) for k in range(1, int(4000 / hertz)) if k * hertz > lowest)


def encoded(wave: np.ndarray, form: str, subtype: str | None, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=form, subtype=subtype)
    return file.getvalue()


def measured(wave: np.ndarray, form: str = "WAV", subtype: str | None = "FLOAT") -> clip_measures.ClipMeasures:
    return measure_clip(Clip(encoded(wave, form, subtype), 0.0, None), "content")


def test_level_peak_and_dc_are_those_of_a_sine() -> None:
    found = measured(sine(200, 2.0) + np.float32(0.1))
    assert found.active_dbfs == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert found.peak_dbfs == pytest.approx(20 * np.log10(0.6), abs=0.01)
    assert found.dc == pytest.approx(0.1, abs=1e-4)
    assert (found.seconds, found.sampling_rate, found.problems) == (2.0, RATE, {})


@pytest.mark.parametrize("lowest", [0, 300], ids=["whole", "above 300 Hz"])
@pytest.mark.parametrize("hertz", [65, 75, 110, 180, 260, 380])
def test_pitch_is_that_of_the_voice(hertz: float, lowest: float) -> None:
    """Also on a telephone, which does not carry the fundamental."""
    wave = pulses(hertz, 1.0, lowest)
    assert pitch(wave, RATE, np.ones(50, bool)) == pytest.approx(hertz, rel=0.02)
    assert pitch(wave * np.float32(1e9), RATE, np.ones(50, bool)) == pytest.approx(hertz, rel=0.02)
    assert pitch(np.random.default_rng(0).normal(0, 0.1, RATE), RATE, np.ones(50, bool)) is None


def test_pitch_is_that_of_the_active_frames() -> None:
    wave = np.concatenate([pulses(110, 1.0), pulses(220, 1.0)])
    for active, hertz in ((slice(0, 50), 110), (slice(50, 100), 220)):
        is_active = np.zeros(100, bool)
        is_active[active] = True
        assert pitch(wave, RATE, is_active) == pytest.approx(hertz, rel=0.02)
    is_active[54:] = False
    assert pitch(wave, RATE, is_active) is None, "four frames are too few"


@pytest.mark.parametrize("rate", [1, 30, 100, 799, 800, 4000, 7920, 11_025, 15_960, 16_020, 44_100, 192_000])
@pytest.mark.filterwarnings("error")
def test_any_rate_can_be_measured(rate: int) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 2 * max(rate, 50)).astype(np.float32)
    found = measure_clip(Clip(encoded(wave, "WAV", "FLOAT", rate), 0.0, None), "content")
    assert (found.problems, found.sampling_rate, found.bandwidth_hz) == ({}, rate, None)
    assert found.pitch_hz is None or rate == 800, "its frames are so short that noise repeats itself"
    assert found.active_dbfs == pytest.approx(-20, abs=3) or rate < 800, "a frame is one sample or two"


def test_silence_is_counted_at_the_ends_and_in_long_pauses() -> None:
    quiet = np.random.default_rng(0).normal(0, 1e-4, RATE).astype(np.float32)
    voice = pulses(120, 1.0)
    wave = np.concatenate([quiet[: RATE // 2], voice, quiet[: RATE // 10], voice, quiet, voice, quiet[: RATE // 4]])
    start, end, share = silence(frame_levels(wave, RATE))
    assert (start, end) == pytest.approx((0.5, 0.25), abs=0.03)
    assert share == pytest.approx((0.5 + 1.0 + 0.25) / 4.85, abs=0.02), "a tenth of a second belongs to speech"


def test_levels_are_those_of_the_formula() -> None:
    wave = np.concatenate([pulses(120, 0.5), np.zeros(RATE // 4, np.float32)]) + np.float32(0.1)
    size = RATE // 50
    power = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64).var(axis=1)
    levels = frame_levels(wave, RATE)
    assert levels == pytest.approx(10 * np.log10(np.maximum(power, 1e-12)), abs=1e-3)
    assert levels.min() == pytest.approx(-120, abs=1e-3)
    assert frame_levels(wave[:100], RATE).shape == (1,), "a clip shorter than a frame is one frame"


@pytest.mark.parametrize(("samples", "rate"), [(2 * RATE, RATE), (30_001, 44_100), (7, RATE), (100, 30)])
def test_levels_are_those_of_librosa(samples: int, rate: int) -> None:
    wave = (np.random.default_rng(0).normal(0, 0.1, samples) * np.linspace(0, 1, samples)).astype(np.float32)
    size = min(samples, max(1, round(0.020 * rate)))
    power = librosa.util.frame(wave, frame_length=size, hop_length=size, axis=0).var(axis=1)
    wanted = librosa.power_to_db(power, amin=1e-12, top_db=None)
    assert frame_levels(wave, rate).tolist() == pytest.approx(wanted.tolist(), rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.05], ids=["", "with DC"])
def test_silence_is_found_above_a_noise_floor_and_under_dc(offset: float) -> None:
    noise = np.random.default_rng(0).normal(0, 10 ** (-45 / 20), 3 * RATE)
    wave = noise.astype(np.float32) + np.float32(offset)
    wave[RATE : 2 * RATE] += pulses(120, 1.0)
    assert silence(frame_levels(wave, RATE))[:2] == pytest.approx((1.0, 1.0), abs=0.03)


def test_a_machine_that_cannot_keep_what_librosa_compiles_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unloadable:
        def __getattr__(self, name: str) -> None:
            raise RuntimeError(f"cannot cache function {name!r}: no locator available for file 'pitch.py'")

    monkeypatch.setattr(clip_measures, "librosa", Unloadable())
    with pytest.raises(InputError, match="^NUMBA_CACHE_DIR: librosa cannot.*; set it to a writable folder$"):
        measure_file([Clip(encoded(pulses(120, 0.5), "WAV", "FLOAT"), 0.0, None)])


@pytest.mark.parametrize("level", [0.0, 1e-6])
def test_a_clip_without_sound_is_silent_and_has_no_problem(level: float) -> None:
    found = measured(np.full(RATE, level, np.float32))
    assert found.silence_share == 1.0 and found.silence_start == 1.0 and found.silence_end == 0.0
    assert found.pitch_hz is None and len(found.landmarks) == 0


def test_flat_tops_count_and_a_slow_sine_does_not() -> None:
    wave = sine(100, 1.0, 0.9)
    assert clipped_share(wave[:, None]) == 0.0
    assert clipped_share(encoded_and_read(wave)) < 1e-4
    assert clipped_share(np.clip(wave, -0.8, 0.8)[:, None]) > 0.2
    stereo = np.stack([wave, np.clip(wave, -0.8, 0.8)], axis=1)
    assert clipped_share(stereo) == pytest.approx(clipped_share(np.clip(wave, -0.8, 0.8)[:, None]) / 2)


def problems_of(content: bytes) -> dict[str, str]:
    return measure_file([Clip(content, 0.0, None)])[0].problems


def encoded_and_read(wave: np.ndarray) -> np.ndarray:
    return read_samples(Clip(encoded(wave, "WAV", "PCM_16"), 0.0, None))[0]


@pytest.mark.parametrize(("form", "subtype"), FORMS)
def test_truncation_finds_cut_files_and_accepts_whole_ones(form: str, subtype: str | None) -> None:
    content = encoded(pulses(120, 3.0), form, subtype)
    assert problems_of(content) == {}
    for share in (0.3, 0.6, 0.95):
        assert problems_of(content[: round(share * len(content))]).keys() == {"truncated"}, share


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_a_wav_that_was_written_to_a_pipe_is_whole(size: int) -> None:
    content = bytearray(encoded(pulses(120, 1.0), "WAV", "PCM_16"))
    content[4:8] = content[40:44] = size.to_bytes(4, "little")
    assert content[36:40] == b"data"
    assert problems_of(bytes(content)) == {}


def test_an_mp3_behind_a_tag_and_without_a_xing_frame() -> None:
    content = encoded(pulses(120, 3.0), "MP3", None)
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 10]) + bytes(2 * 128 + 10)
    assert problems_of(tag + content) == {}
    assert "its header says 127 frames, " in problems_of(tag + content[: len(content) // 2])["truncated"]
    nameless = content.replace(b"Xing", b"\0\0\0\0").replace(b"Info", b"\0\0\0\0")
    assert problems_of(nameless[: len(content) // 2]) == {}, "without the frame, the size is unknown"


def test_a_cut_beyond_the_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(pulses(120, 2.0), "WAV", "PCM_16"))
    exact, rounded, beyond = measure_file([Clip(path, 0.5, 1.5), Clip(path, 0.5, 1.58), Clip(path, 0.5, 2.0)])
    assert exact.problems == rounded.problems == {}
    assert beyond.problems == {"truncated": f"{path}: 2 s from 0.5 s on are asked for, 1.50 s are there"}


# soundfile's callback may fail inside libsndfile, which then rejects the file; that is right.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("form", "subtype"), FORMS)
def test_no_damage_raises_anything(form: str, subtype: str | None) -> None:
    """Headers with contradictory or huge numbers, and files cut anywhere, give problems and no exception."""
    rng, content = random.Random(0), encoded(pulses(120, 0.5), form, subtype)
    kinds = set()
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(rng.choice([60, len(damaged)]))] = rng.randrange(256)
        if rng.random() < 0.4:
            damaged = damaged[: rng.randrange(len(damaged) + 1)]
        for found in measure_file([Clip(bytes(damaged), 0.0, None), Clip(bytes(damaged), 0.25, 0.1)]):
            kinds |= found.problems.keys()
    assert kinds <= {"unreadable", "empty", "nan", "truncated", "overscaled"} and kinds


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e20])
def test_samples_that_are_not_usable_numbers_are_named(value: float) -> None:
    wave = pulses(120, 0.5)
    wave[100] = value
    assert list(measure_file([Clip(encoded(wave, "WAV", "FLOAT"), 0.0, None)])[0].problems) == ["nan"]


def test_long_files_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(pulses(120, 1.0), "FLAC", None)
    whole, _ = read_samples(Clip(content, 0.0, None))
    cut, _ = read_samples(Clip(content, 0.25, 0.5))
    assert len(whole) == RATE < BLOCK_SAMPLES
    monkeypatch.setattr("boson_multimodal.audio_processing.sound_files.BLOCK_SAMPLES", 1000)
    assert np.array_equal(read_samples(Clip(content, 0.0, None))[0], whole)
    assert np.array_equal(read_samples(Clip(content, 0.25, 0.5))[0], cut)
    assert np.array_equal(cut, whole[RATE // 4 : 3 * RATE // 4])
