"""Figures of spoken clips against slow, obvious functions and cases made by hand."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from boson_multimodal.audio_processing.repeated_codes import LEAST_LOOP_FRAMES, repeated_frames
from boson_multimodal.errors import InputError
from voice_cloning.training.spoken_figures import SpokenClip, measure_clip, spoken_characters, spoken_figures

RATE, FPS = 24_000, 25.0
CLIP = SpokenClip(
    sample="a",
    text="باب",
    characters=3,
    ended=True,
    frames=20,
    true_frames=10,
    repeated_frames=5,
    silent_frames=None,
    seed=0,
)


def clip(**changes: object) -> SpokenClip:
    return dataclasses.replace(CLIP, **changes)


def slow_repeated(codes: np.ndarray) -> list[bool]:
    """Compare every passage with every earlier one, frame by frame."""
    frames = [tuple(column) for column in codes.T.tolist()]
    still = [t > 0 and frames[t] == frames[t - 1] for t in range(len(frames))]
    found = list(still)
    for lag in range(2, len(frames)):
        for start in range(lag, len(frames)):
            for end in range(start + 1, len(frames) + 1):
                if frames[end - 1] != frames[end - 1 - lag]:
                    break
                if sum(not still[t] for t in range(start, end)) >= LEAST_LOOP_FRAMES:
                    found[start:end] = [True] * (end - start)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_repeated_frames_are_those_of_a_slow_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 3, (2, 30))]
    for _ in range(rng.integers(1, 5)):
        passage = parts[rng.integers(len(parts))]
        start = rng.integers(0, passage.shape[1])
        parts.append(np.repeat(passage[:, start : start + rng.integers(1, 12)], rng.integers(1, 4), axis=1))
    codes = np.concatenate(parts, axis=1)[:, rng.integers(0, 25) :]
    assert repeated_frames(codes).tolist() == slow_repeated(codes)


def test_repeated_frames_of_clear_cases() -> None:
    different = np.arange(8 * 12).reshape(8, 12)
    assert not repeated_frames(different).any()
    assert repeated_frames(different[:, :0]).shape == (0,) and not repeated_frames(different[:, :1]).any()
    assert repeated_frames(np.repeat(different[:, :1], 9, axis=1)).tolist() == [False] + [True] * 8
    assert repeated_frames(np.tile(different[:, :5], 3)).tolist() == [False] * 5 + [True] * 10
    assert not repeated_frames(np.tile(different[:, :4], 2)).any(), "four frames are no loop"
    assert repeated_frames(np.tile(different[:, :2], 4)).tolist() == [False] * 2 + [True] * 6
    last_book = np.repeat(different[:, :1], 9, axis=1)
    last_book[7] = np.arange(9)
    assert not repeated_frames(last_book).any(), "a frame is equal if all its codes are"
    pause = np.repeat(different[:, :1], 6, axis=1)
    two_pauses = np.concatenate([pause, different[:, 1:3], pause], axis=1)
    assert repeated_frames(two_pauses).sum() == 10, "two equal pauses are no loop"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("كتاب", 4),
        ("كِتَابٌ", 4),
        ("كتـــاب", 4),
        ("كتاب، وقلم!", 8),
        ("ﻻ", 2),
        ("\u0623", 1),
        ("\u0627\u0654", 1),
        ("عام ٢٠٢٤", 7),
        ("الساعة 10:30", 10),
        ("\u200fنعم\u200f", 3),
        ("yes & نعم", 6),
        ("سؤال؟ \U0001f600", 4),
    ],
)
def test_letters_and_digits_are_counted(text: str, count: int) -> None:
    assert spoken_characters(text) == count


def test_figures_of_clips_made_by_hand() -> None:
    clips = [
        clip(frames=10, characters=4, repeated_frames=0),
        clip(frames=40, true_frames=20, characters=6, repeated_frames=20, ended=False),
        clip(frames=0, repeated_frames=0),
        clip(frames=50, true_frames=None, characters=7, silent_frames=10, repeated_frames=0),
    ]
    assert spoken_figures(clips, FPS) == {
        "spoken_clips": 4,
        "spoken_stop_rate": 0.75,
        "spoken_length_ratio": 1.0,
        "spoken_length_ratio_p5": pytest.approx(0.1),
        "spoken_length_ratio_p95": pytest.approx(1.9),
        "spoken_repeated_share": 0.2,
        "spoken_silent_share": 0.2,
        "spoken_characters_per_second": 20 / 4.0,
        "true_characters_per_second": pytest.approx(13 / 1.6),
    }


def test_figures_that_nothing_is_known_about_are_absent() -> None:
    assert spoken_figures([], FPS) == {"spoken_clips": 0}
    empty = clip(frames=0, repeated_frames=0, true_frames=None, ended=False, silent_frames=0)
    assert spoken_figures([empty], FPS) == {"spoken_clips": 1, "spoken_stop_rate": 0.0}
    unknown = spoken_figures([clip(true_frames=None)], FPS)
    assert not {name for name in unknown if "length" in name or name.startswith("true_") or "silent" in name}
    one = spoken_figures([clip(ended=False)], FPS)
    assert one["spoken_length_ratio"] == one["spoken_length_ratio_p5"] == one["spoken_length_ratio_p95"] == 2.0
    assert one["spoken_stop_rate"] == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_figures_do_not_depend_on_order_and_percentiles_are_linear(seed: int) -> None:
    draw = random.Random(seed)
    clips = [clip(frames=draw.randint(1, 99), true_frames=draw.randint(1, 50)) for _ in range(draw.randint(1, 70))]
    figures = spoken_figures(clips, FPS)
    ratios = sorted(one.frames / one.true_frames for one in clips)
    for name, share in {"_p5": 0.05, "": 0.5, "_p95": 0.95}.items():
        place = share * (len(ratios) - 1)
        below, above = ratios[int(place)], ratios[min(int(place) + 1, len(ratios) - 1)]
        assert figures[f"spoken_length_ratio{name}"] == pytest.approx(below + (place - int(place)) * (above - below))
    draw.shuffle(clips)
    assert spoken_figures(clips, FPS) == pytest.approx(figures, rel=1e-12)


def voice(seconds: float, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(1).normal(0, level, round(seconds * RATE)).astype(np.float32)


@pytest.mark.parametrize(
    ("wave", "silent"),
    [
        (np.zeros(2 * RATE, np.float32), 50),
        (np.full(2 * RATE, 0.2, np.float32), 50),
        (voice(2.0, 1e-6), 50),
        (voice(2.0), 0),
        (np.concatenate([voice(1.0), np.zeros(RATE, np.float32)]), 25),
        (np.concatenate([voice(1.0), voice(1.0, 1e-4)]), 25),
        (np.concatenate([voice(0.95), voice(0.1, 1e-4), voice(0.95)]), 0),
        (np.concatenate([voice(0.5), voice(19.5, 1e-4)]), 488),
    ],
    ids=["zeros", "only DC", "inaudible", "all voice", "half", "half of it noise", "a short pause", "a runaway"],
)
def test_silent_frames_are_counted_in_the_waveform(wave: np.ndarray, silent: int) -> None:
    frames = round(len(wave) / RATE * FPS)
    codes = torch.arange(8 * frames).view(8, frames)
    found = measure_clip(
        "a", "نعم", codes, ended=True, true_frames=50, seed=3, samples=torch.from_numpy(wave), sampling_rate=RATE
    )
    assert found == SpokenClip(
        sample="a",
        text="نعم",
        characters=3,
        ended=True,
        frames=frames,
        true_frames=50,
        repeated_frames=0,
        silent_frames=silent,
        seed=3,
    )


def test_an_empty_clip_is_measured() -> None:
    empty = measure_clip("a", "نعم", torch.zeros(8, 0, dtype=torch.long), ended=True, true_frames=None, seed=0)
    assert (empty.frames, empty.repeated_frames, empty.silent_frames) == (0, 0, None)
    nothing = torch.zeros(0)
    heard = measure_clip(
        "a", "", np.zeros((8, 0), int), ended=False, true_frames=1, seed=0, samples=nothing, sampling_rate=RATE
    )
    assert (heard.silent_frames, heard.characters) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes_KT": torch.zeros(8)}, r"sample 'a': codes have the shape \(8,\); they must be \(codebooks, frames\)"),
        ({"true_frames": 0}, "true_frames is 0; a recording has at least 1, or give None"),
        (
            {"samples": torch.zeros(1, 99), "sampling_rate": RATE},
            r"shape \(1, 99\) at 24000 Hz; it must be \(samples,\)",
        ),
        ({"samples": torch.zeros(99)}, "at None Hz"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, object], message: str) -> None:
    good = {"codes_KT": torch.zeros(8, 3), "ended": True, "true_frames": 3, "seed": 0}
    with pytest.raises(InputError, match=message):
        measure_clip("a", "نعم", **(good | changes))
