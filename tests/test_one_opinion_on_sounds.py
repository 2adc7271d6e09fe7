"""Build, check, trainer and synthesis give one length to a sound file, or all refuse it, and a player agrees."""

import base64
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from boson_multimodal.audio_processing.sound_files import Clip, read_mono, read_samples, sound_length
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, load, make_cache, record, write_records
from tests.goldens import SHARED_DIR
from tests.odd_sounds import OddSound, odd_sounds
from voice_cloning.corpora.utterances import seconds_of
from voice_cloning.data_check.clip_measures import measure_file
from voice_cloning.speech.requests import check_references, request_of_text

CASES_DIR = SHARED_DIR / "cases" / "audio"
needs_cases = pytest.mark.skipif(not CASES_DIR.is_dir(), reason="../shared/cases is absent")
SHOWN_BY_DECODING = "channels cancel each other"
"""build decodes only files whose samples are floats."""
CASES = {
    "antiphase.wav": "channels cancel each other",
    "arecord_pipe.wav": 6.0,
    "chained.ogg": 11.0,
    "chained.opus": 11.0,
    "concat.mp3": 11.0,
    "ff_pipe_flac.flac": 6.0,
    "int_scaled_float.wav": "largest sample is 32430 times full scale",
    "size0.wav": 6.0,
    "sox_pipe.wav": 6.0,
    "vbr_noxing.mp3": 6.084,
    "vbr_pipe.mp3": 6.084,
}
"""The length in seconds, or what the refusal says."""

Opinion = float | str
"""The length in seconds, or the message of the refusal."""


def opinion_of(function: Callable[[], float]) -> Opinion:
    try:
        return function()
    except InputError as error:
        return str(error)


def seconds_in_check(source: Path | bytes) -> float:
    found = measure_file([Clip(source, 0.0, None)])[0]
    if found.problems:
        raise InputError("; ".join(found.problems.values()))
    return found.seconds


def seconds_in_training(folder: Path, content: AudioContent, tokenizer: PreTrainedTokenizerBase) -> float:
    """As reference and as target, from the clips that the dataset has found before it encodes them."""
    raw = content.raw_audio and base64.b64encode(content.raw_audio).decode()
    part = audio(content.audio_url, raw_audio=raw)
    path = write_records(folder / "train.json", [record("a", part, part)])
    dataset = load(path, tokenizer, make_cache(folder / "cache"))
    (facts,) = {used.facts for used in dataset.records[0].clips}
    return facts.samples / facts.sampling_rate


def frames_in_synthesis(folder: Path, content: AudioContent) -> int:
    request = request_of_text("a", "مرحبا", content, "صباح", "voice_clone", folder)
    frames, problems = check_references([request])
    if problems:
        raise InputError("; ".join(problems))
    return next(iter(frames.values()))


def check_opinions(path: Path, wanted: Opinion, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check what each command makes of a file, by its path and as bytes in a record."""
    for content in (AudioContent(path.name), AudioContent(raw_audio=path.read_bytes())):
        source = content.raw_audio or path
        opinions = {
            "build": opinion_of(lambda source=source: seconds_of(source, path.name)),
            "check": opinion_of(lambda source=source: seconds_in_check(source)),
            "trainer": opinion_of(lambda content=content: seconds_in_training(path.parent, content, tokenizer)),
        }
        frames = opinion_of(lambda content=content: frames_in_synthesis(path.parent, content))
        if isinstance(wanted, float):
            assert all(opinion == pytest.approx(wanted, abs=1e-9) for opinion in opinions.values()), opinions
            assert frames == pytest.approx(wanted * FRAMES_PER_SECOND, abs=1)
            continue
        if re.search(SHOWN_BY_DECODING, wanted):
            assert isinstance(opinions.pop("build"), float)
        for who, opinion in {**opinions, "synthesis": frames}.items():
            assert isinstance(opinion, str) and re.search(wanted, opinion), f"{who}: {opinion}"
            assert "object at 0x" not in opinion


@pytest.mark.parametrize("name", odd_sounds())
def test_all_commands_have_one_opinion(name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    sound = odd_sounds()[name]
    path = tmp_path / f"clip{sound.suffix}"
    path.write_bytes(sound.content)
    check_opinions(path, sound.refusal if sound.seconds is None else sound.seconds, tokenizer)


@needs_cases
@pytest.mark.parametrize("name", CASES)
def test_all_commands_have_one_opinion_on_users_files(
    name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / name
    path.write_bytes((CASES_DIR / name).read_bytes())
    check_opinions(path, CASES[name], tokenizer)


@needs_cases
def test_the_cases_are_all_there() -> None:
    assert {path.name for path in CASES_DIR.iterdir()} == CASES.keys()


@pytest.mark.parametrize("name", [name for name, sound in odd_sounds().items() if sound.seconds is not None])
def test_the_length_is_that_of_the_samples_and_cuts_are_parts_of_them(name: str) -> None:
    sound = odd_sounds()[name]
    whole, rate = read_samples(Clip(sound.content, 0.0, None))
    length = sound_length(sound.content)
    assert (length.frames, length.sampling_rate, length.channels) == (len(whole), rate, whole.shape[1])
    assert length.seconds == pytest.approx(sound.seconds, abs=1e-9)
    for offset, duration in ((0.3, 0.5), (1.7, None), (1.9, 0.3)):
        cut, _ = read_samples(Clip(sound.content, offset, duration))
        first = round(offset * rate)
        wanted = whole[first:] if duration is None else whole[first : first + round(duration * rate)]
        assert cut.shape == wanted.shape
        if "VORBIS" not in name and "OPUS" not in name and "MP3" not in name:  # lossy decoders begin anew at a cut
            assert np.array_equal(cut, wanted)
        else:
            assert correlation(cut[800:, 0], wanted[800:, 0]) > 0.99
    with pytest.raises(InputError, match="empty audio after an offset of 99 s"):
        read_samples(Clip(sound.content, 99.0, None))


@pytest.mark.parametrize("name", [name for name, sound in odd_sounds().items() if sound.parts])
def test_every_part_of_a_file_is_in_the_samples(name: str) -> None:
    sound = odd_sounds()[name]
    wave, rate = read_mono(Clip(sound.content, 0.0, None))
    start = 0
    for part in sound.parts:
        lag = best_lag(wave[start:], part, rate // 10)
        assert correlation(wave[start + lag :], part) > 0.98, lag
        start += lag + len(part)
    assert len(wave) - start <= rate // 10


# The decoder of the comparison


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    return pytest.importorskip("imageio_ffmpeg", reason="pip install imageio-ffmpeg").get_ffmpeg_exe()


def played(ffmpeg: str, path: Path, rate: int) -> np.ndarray:
    """Return the (samples,) mono that ffmpeg plays of a file, at a rate."""
    how = ["-hide_banner", "-nostdin", "-loglevel", "error", "-i", str(path), "-map", "0:a:0"]
    out = subprocess.run(
        [ffmpeg, *how, "-ac", "1", "-ar", str(rate), "-f", "f32le", "-"], capture_output=True, check=False
    )
    return np.frombuffer(out.stdout, np.float32)


def check_against_ffmpeg(ffmpeg: str, path: Path, margin: float, joint: float = 0.0) -> None:
    """Compare the length within ``margin`` seconds, and the samples of each half second at the best shift.

    The half seconds are counted from ``joint`` on, where a shift may begin.
    """
    wave, rate = read_mono(Clip(path, 0.0, None))
    other = played(ffmpeg, path, rate)
    assert abs(len(wave) - len(other)) <= margin * rate + 1, f"{len(wave) / rate} s, ffmpeg {len(other) / rate} s"
    size, most = rate // 2, round(margin * rate) + 8
    padded = np.concatenate([np.zeros(most, np.float32), other, np.zeros(most + size, np.float32)])
    for start in range(round(joint * rate) % size, len(wave) - size, size):
        part = wave[start : start + size]
        lag = best_lag(padded[start : start + size + 2 * most], part, 2 * most)
        assert correlation(padded[start + lag :], part) > 0.95, f"at {start / rate} s"


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation over the length of the shorter."""
    size = min(len(one), len(other))
    return float(np.corrcoef(one[:size], other[:size])[0, 1])


def best_lag(wave: np.ndarray, part: np.ndarray, most: int) -> int:
    """Return the number of samples, up to ``most``, by which ``wave`` lags behind ``part``."""
    size = 1 << (len(wave) + len(part)).bit_length()
    product = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(part, size).conj())[: most + 1]
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64)), np.zeros(len(part))])
    energy = np.maximum.accumulate(energy)
    local = energy[len(part) : len(part) + len(product)] - energy[: len(product)]
    return int((product / np.sqrt(local + 1e-9)).argmax())


AGAINST_A_PLAYER = [name for name, sound in odd_sounds().items() if sound.seconds is not None and sound.is_played]


@pytest.mark.parametrize("name", AGAINST_A_PLAYER)
def test_a_player_plays_what_is_read(name: str, tmp_path: Path, ffmpeg: str) -> None:
    sound: OddSound = odd_sounds()[name]
    path = tmp_path / f"clip{sound.suffix}"
    path.write_bytes(sound.content)
    check_against_ffmpeg(ffmpeg, path, sound.margin, sound.joint)


@needs_cases
@pytest.mark.parametrize("name", [name for name, wanted in CASES.items() if isinstance(wanted, float)])
def test_a_player_plays_what_is_read_of_users_files(name: str, ffmpeg: str) -> None:
    check_against_ffmpeg(ffmpeg, CASES_DIR / name, 0.1 if name in ("concat.mp3", "chained.ogg") else 0.0)
