"""Damaged sound files: no traceback, no hang, little memory, and a length that is that of the samples."""

import random

import pytest

from boson_multimodal.audio_processing.audio_errors import AudioError
from boson_multimodal.audio_processing.sound_files import Clip, read_samples, sound_length
from tests.fuzzing import MUTATIONS, check_bounds, mutated, run_apart
from tests.odd_sounds import OTHER, encoded, flac_with_samples, without_length

AT_ONCE = 25
"""Files that one forked process reads: the bounds of one reading hold for all of them together."""
FILES = {
    "WAV": lambda: encoded(0, "WAV", "PCM_16"),
    "WAV, IMA ADPCM": lambda: encoded(0, "WAV", "IMA_ADPCM"),
    "RF64": lambda: encoded(0, "RF64", "PCM_16"),
    "FLAC": lambda: encoded(1, "FLAC"),
    "FLAC of unknown length, joined": lambda: flac_with_samples(0) + flac_with_samples(0, 1),
    "MP3": lambda: encoded(0, "MP3"),
    "MP3 without a length": lambda: without_length(encoded(0, "MP3", bitrate_mode="VARIABLE")),
    "MP3, joined": lambda: encoded(0, "MP3") + encoded(1, "MP3"),
    "Ogg Vorbis, joined": lambda: encoded(0, "OGG", "VORBIS") + encoded(1, "OGG", "VORBIS"),
    "Ogg Opus": lambda: encoded(0, "OGG", "OPUS"),
}

Read = tuple[int, int, int] | tuple[str, str]
"""(samples, rate, channels), or the kind and the text of an ``AudioError``."""


def length_and_samples(contents: list[bytes]) -> list[tuple[Read, Read]]:
    return [(read_length(content), read_whole(content)) for content in contents]


def read_length(content: bytes) -> Read:
    try:
        found = sound_length(content)
    except AudioError as error:
        return error.kind, str(error)
    return found.frames, found.sampling_rate, found.channels


def read_whole(content: bytes) -> Read:
    try:
        samples, rate = read_samples(Clip(content, 0.0, None))
    except AudioError as error:
        return error.kind, str(error)
    return samples.shape[0], rate, samples.shape[1]


def check_together(length: Read, samples: Read, name: str) -> None:
    """Check that both are equal or both failed, but for what only the content shows: levels, and damage of FLAC."""
    failed, is_read = isinstance(samples[0], str), isinstance(length[0], int)
    if not failed:
        assert length == samples
    elif is_read:
        kind, text = samples
        only_content = kind in ("nan", "overscaled")
        assert only_content or ("FLAC" in name and kind == "truncated" and "damaged or breaks off" in text), text


# soundfile's callback may fail inside libsndfile, which then rejects the file; that is right.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mutations", MUTATIONS)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_read_alike_or_refused(name: str, mutations: int) -> None:
    content, generator = FILES[name](), random.Random(name)
    untouched = run_apart(length_and_samples, [content])
    assert untouched.value[0][0] == untouched.value[0][1] and untouched.value[0][0][0] >= len(OTHER)
    for first in range(0, mutations, AT_ONCE):
        damaged = [mutated(content, generator) for _ in range(min(AT_ONCE, mutations - first))]
        outcome = run_apart(length_and_samples, damaged)
        check_bounds(outcome, untouched, f"{name}, from mutation {first} on")
        for length, samples in outcome.value:
            check_together(length, samples, name)
            assert "object at 0x" not in f"{length} {samples}"
