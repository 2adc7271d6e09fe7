"""Tests of same_speech: changed copies of a recording are found; the same words recorded again are not."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.goldens import SAMPLES_DIR, needs_samples
from tools.demo.speech import SAMPLE_RATE, SENTENCES, VOICES, parts, synthesise
from voice_cloning.data_check import same_speech
from voice_cloning.data_check.same_speech import (
    EQUAL_LANDMARKS,
    HOP,
    PEAK_RATE,
    SAME_SPEECH_SHARE,
    candidate_pairs,
    landmarks,
    resample_fft,
    share_landmarks,
    shared_share,
)

RATE = 16000
"""Sampling rate of the real utterances, which are joined from words of one second each."""
Copy = tuple[str, np.ndarray, int]
PROJECT = Path(same_speech.__file__).resolve().parents[2]


def encoded(samples: np.ndarray, rate: int, form: str, subtype: str, **settings: Any) -> np.ndarray:
    """Return the samples after a lossy encoder and its decoder."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype, **settings)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def mp3(samples: np.ndarray, rate: int, level: float) -> np.ndarray:
    """Return the samples after MP3; level 0.99 is the lowest bit rate, 8 kbit/s for 16 kHz."""
    return encoded(samples, rate, "MP3", "MPEG_LAYER_III", compression_level=level, bitrate_mode="CONSTANT")


def opus(samples: np.ndarray, rate: int) -> np.ndarray:
    return encoded(samples, rate, "OGG", "OPUS")


def copies(samples: np.ndarray, rate: int) -> Iterator[Copy]:
    """Yield changed copies of a clip: name of the change, samples, sampling rate."""
    cut, middle = int(0.3 * rate), len(samples) // 2
    without_middle = np.concatenate([samples[:middle], samples[middle + cut :]])
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    yield "MP3, high rate", mp3(samples, rate, 0.0), rate
    yield "MP3, low rate", mp3(samples, rate, 0.99), rate
    yield "Opus", opus(samples, rate), rate
    yield "Vorbis", encoded(samples, rate, "OGG", "VORBIS"), rate
    yield "Vorbis, low rate", encoded(samples, rate, "OGG", "VORBIS", compression_level=1.0), rate
    yield "start cut", samples[cut:], rate
    yield "end cut", samples[:-cut], rate
    yield "middle cut", without_middle, rate
    yield "clipped", np.clip(2 * samples / np.abs(samples).max(), -1, 1), rate
    yield "quieter", samples / 2, rate
    for new_rate in (8000, 16000, 24000, 44100, 48000):
        yield f"{new_rate} Hz", resample_fft(samples, rate, new_rate), new_rate
    for shift in (1, rate * 4 // 1000, rate * 12 // 1000):
        yield f"{shift} samples later", np.concatenate([np.zeros(shift, np.float32), samples]), rate
    yield "noise", samples + 10**-1.5 * samples.std() * noise, rate
    yield "inverted", -samples, rate
    yield "constant added", samples + np.float32(0.1), rate
    yield "all", opus(np.clip(-2 * resample_fft(without_middle, rate, 24000), -1, 1), 24000), 24000
    yield "all, 44.1 kHz", mp3(np.clip(2 * resample_fft(samples[cut + 5 :], rate, 44100), -1, 1), 44100, 0.99), 44100


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


@pytest.fixture(scope="module")
def utterances() -> dict[str, np.ndarray]:
    """Return the real utterances by their path within the samples."""
    return {str(p.relative_to(SAMPLES_DIR)): read(p) for p in sorted(SAMPLES_DIR.glob("clips/*/*.flac"))}


@pytest.fixture(scope="module")
def fingerprints(utterances: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [landmarks(samples, RATE) for samples in utterances.values()]


@pytest.fixture(scope="module")
def spoken() -> list[list[np.ndarray]]:
    """Return two renderings of each sentence in one synthetic voice, which differ in pitch and breath."""
    return [
        [synthesise(text, VOICES[voice], np.random.default_rng(seed)).astype(np.float32) for seed in (0, 1)]
        for voice in VOICES
        for text in parts(SENTENCES[voice])[:2]
    ]


def words(samples: np.ndarray) -> set[bytes]:
    """Return the recordings that an utterance is joined from."""
    return {samples[i : i + RATE].tobytes() for i in range(0, len(samples), RATE)}


def missed(samples: np.ndarray, rate: int) -> list[tuple[str, int, float]]:
    """Return the copies of a clip that are not found, with their equal landmarks and shared share."""
    own = landmarks(samples, rate)
    found = []
    for name, copy, copy_rate in copies(samples, rate):
        other = landmarks(copy, copy_rate)
        share = shared_share(samples, rate, copy, copy_rate)
        if [pair[:2] for pair in candidate_pairs([own, other])] != [(0, 1)] or share < SAME_SPEECH_SHARE + 0.1:
            found.append((name, share_landmarks(own, other), share))
    return found


@needs_samples
def test_real_copies_are_found(utterances: dict[str, np.ndarray]) -> None:
    assert [(path, missed(utterances[path], RATE)) for path in list(utterances)[::16]] == [
        (path, []) for path in list(utterances)[::16]
    ]


def test_synthetic_copies_are_found(spoken: list[list[np.ndarray]]) -> None:
    joined = np.concatenate([renderings[0] for renderings in spoken[2:4]])
    assert missed(joined, SAMPLE_RATE) == []


@needs_samples
def test_a_reference_cut_from_its_target_is_found(utterances: dict[str, np.ndarray]) -> None:
    for samples in list(utterances.values())[::8]:
        excerpt = opus(resample_fft(samples[: 2 * RATE], RATE, 8000), 8000)
        assert share_landmarks(landmarks(samples, RATE), landmarks(excerpt, 8000)) >= EQUAL_LANDMARKS
        assert shared_share(samples, RATE, excerpt, 8000) > SAME_SPEECH_SHARE


@needs_samples
def test_a_common_word_is_a_candidate_and_not_the_same_speech(
    utterances: dict[str, np.ndarray], fingerprints: list[np.ndarray]
) -> None:
    clips = list(utterances.values())
    pairs = [(i, j) for j in range(len(clips)) for i in range(j) if words(clips[i]) & words(clips[j])]
    candidates = candidate_pairs(fingerprints)
    assert len(candidates) < len(pairs) + 3, "of 8128 pairs"
    assert max(shared_share(clips[i], RATE, clips[j], RATE) for i, j in pairs) < SAME_SPEECH_SHARE - 0.1
    certain = candidate_pairs(fingerprints, equal_landmarks=3)
    assert len(certain) > len(pairs) / 2
    for i, j, seconds in certain:
        assert (i, j) in pairs
        assert abs(seconds - round(seconds)) < 0.04, "words start at whole seconds"


@needs_samples
def test_no_record_of_the_samples_is_found(utterances: dict[str, np.ndarray]) -> None:
    """Ten records have the recording of one word in both reference and target."""
    shares = []
    for record in json.loads((SAMPLES_DIR / "train_chatml_samples.json").read_text(encoding="utf-8")):
        user, assistant = record["messages"][1:]
        paths = [c["audio_url"] for m in (user, assistant) for c in m["content"] if c["type"] == "audio"]
        shares.append(shared_share(utterances[paths[0]], RATE, utterances[paths[1]], RATE))
    assert len(shares) == 112
    assert max(shares) < SAME_SPEECH_SHARE - 0.1


def test_another_recording_of_the_same_words_is_not_the_same_speech(spoken: list[list[np.ndarray]]) -> None:
    for one, other in spoken:
        assert shared_share(one, SAMPLE_RATE, other, SAMPLE_RATE) < 0.3


@needs_samples
def test_a_common_background_is_not_common_speech(utterances: dict[str, np.ndarray]) -> None:
    time = np.arange(7 * RATE) / RATE
    tones = sum(np.sin(2 * np.pi * f * time) for f in (50, 100, 1000, 1300)).astype(np.float32)
    clips = [samples + samples.std() / 3 * tones[: len(samples)] for samples in list(utterances.values())[:60:5]]
    assert len(candidate_pairs([landmarks(clip, RATE) for clip in clips])) < 3
    assert max(shared_share(clips[0], RATE, clip, RATE) for clip in clips[1:]) < 0.3


def test_silence_equals_nothing() -> None:
    dither = np.random.default_rng(0).uniform(-4e-5, 4e-5, RATE).astype(np.float32)
    for samples in (np.zeros(RATE, np.float32), dither, dither + np.float32(0.2), np.zeros(0, np.float32)):
        none = landmarks(samples, RATE)
        assert none.shape == (0, 2) and none.dtype == np.uint32
        assert shared_share(samples, RATE, samples, RATE) == 0.0
        assert share_landmarks(none, none) == 0
    assert candidate_pairs([none, none]) == candidate_pairs([]) == []


def test_very_short_and_broken_clips_raise_no_error(spoken: list[list[np.ndarray]]) -> None:
    long = spoken[0][0]
    for length in (1, 2, 100, 500, 3000, 5000):
        assert 0.0 <= shared_share(long[9000 : 9000 + length], SAMPLE_RATE, long, SAMPLE_RATE) <= 1.0
        landmarks(long[:length], SAMPLE_RATE)
    broken = long.copy()
    broken[5] = np.nan
    assert len(landmarks(broken, SAMPLE_RATE)) == 0
    assert shared_share(broken, SAMPLE_RATE, long, SAMPLE_RATE) == 0.0


def random_fingerprints(clips: int, hashes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.integers(hashes, size=(clips, 100))
    return list(np.stack([values, np.sort(rng.integers(750, size=values.shape))], axis=2).astype(np.uint32))


@pytest.mark.parametrize("pairs_at_once", [1 << 25, 500])
def test_candidates_are_those_of_a_pairwise_count(monkeypatch: pytest.MonkeyPatch, pairs_at_once: int) -> None:
    monkeypatch.setattr(same_speech, "PAIRS_AT_ONCE", pairs_at_once)
    many = random_fingerprints(60, 3000)
    expected = [(i, j) for i in range(60) for j in range(i + 1, 60) if share_landmarks(many[i], many[j]) >= 2]
    assert 10 < len(expected) < 60 * 59 / 4
    assert [pair[:2] for pair in candidate_pairs(many, equal_landmarks=2)] == expected


def test_the_offset_of_a_candidate_is_that_of_its_speech() -> None:
    one, other = random_fingerprints(2, 1 << 30)
    other[:50] = one[:50]
    other[:50, 1] += 125
    assert candidate_pairs([one, other]) == [(0, 1, -125 * HOP / PEAK_RATE)]


@pytest.mark.parametrize("copies_of_one, found", [(20, 190), (201, 0)])
def test_hashes_of_very_many_clips_are_ignored(copies_of_one: int, found: int) -> None:
    assert len(candidate_pairs(random_fingerprints(1, 1 << 30) * copies_of_one)) == found


@pytest.mark.parametrize("rate, new_rate", [(16000, 8000), (44100, 16000), (8000, 48000), (24000, 24000)])
def test_resampling_keeps_a_tone(rate: int, new_rate: int) -> None:
    old, new = np.arange(rate) / rate, np.arange(new_rate) / new_rate
    resampled = resample_fft(np.sin(2 * np.pi * 440 * old).astype(np.float32), rate, new_rate)
    assert resampled.shape == new.shape and resampled.dtype == np.float32
    assert np.abs(resampled - np.sin(2 * np.pi * 440 * new))[new_rate // 10 : -new_rate // 10].max() < 0.01


def test_worker_processes_need_neither_torch_nor_scipy() -> None:
    code = "import sys, voice_cloning.data_check.same_speech; print({'torch', 'scipy', 'librosa'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
