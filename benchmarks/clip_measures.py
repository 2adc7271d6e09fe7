"""Compares librosa and our own code: results and time for a clip's level, silence, bandwidth and pitch.

    OMP_NUM_THREADS=1 python -m benchmarks.clip_measures [--folder ../shared/samples/arabic_speech_commands]

"as used" marks the code of ``voice_cloning.data_check.clip_measures``. Times are CPU time on one core. The folder holds
ChatML files of real speech at 16 kHz; a second of silence, noise, DC and other rates are planted in its clips.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
import torch
import torchaudio

from boson_multimodal.audio_processing.sound_files import Clip
from voice_cloning.data_check import clip_measures as used
from voice_cloning.data_check.sample_rules import MOST_SILENCE, SILENCE_AT_AN_END_SECONDS

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples" / "arabic_speech_commands"
RATE = 16_000
UPSAMPLED_TO = (24_000, 44_100, 48_000)
FEW = 64
"""Number of clips that are upsampled."""

Silence = tuple[float, float, float]


def clips_of(folder: Path) -> dict[Path, str]:
    """Return path -> speaker of every clip that the folder's ChatML files name."""
    records = [r for path in sorted(folder.glob("*_chatml_samples.json")) for r in json.loads(path.read_text("utf-8"))]
    return {
        folder / part["audio_url"]: record["speaker"]
        for record in records
        for message in record["messages"]
        for part in message["content"]
        if isinstance(part, dict) and part["type"] == "audio"
    }


def timed(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> tuple[float, list[Any]]:
    """Return the milliseconds of CPU time per call and the results; the first call also runs before the timing."""
    function(*calls[0])
    began = time.process_time()
    found = [function(*call) for call in calls]
    return 1000 * (time.process_time() - began) / len(calls), found


def active_frames(wave: np.ndarray, rate: int) -> np.ndarray:
    levels = used.frame_levels(wave, rate)
    return levels >= used.silence_threshold(levels)


# -- level -----------------------------------------------------------------------------------------------------------


def librosa_levels(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return the levels of frames that librosa makes."""
    size = round(used.FRAME_SECONDS * rate)
    power = librosa.util.frame(wave, frame_length=size, hop_length=size, axis=0).var(axis=1)
    return librosa.power_to_db(power, amin=used.LEAST_POWER, top_db=None)


def rms_levels(wave: np.ndarray, rate: int) -> np.ndarray:
    size = round(used.FRAME_SECONDS * rate)
    rms = librosa.feature.rms(y=wave - wave.mean(), frame_length=size, hop_length=size, center=False)[0]
    return librosa.amplitude_to_db(rms, amin=used.LEAST_POWER**0.5, top_db=None)


def compare_levels(waves: Sequence[np.ndarray]) -> None:
    print("\nlevel of 20 ms frames: largest difference of a frame, and of a clip's loud parts, from the first, in dB")
    base = [used.frame_levels(wave, RATE) for wave in waves]
    for name, function in {
        "numpy, as used": used.frame_levels,
        "librosa.util.frame and power_to_db": librosa_levels,
        "librosa.feature.rms": rms_levels,
    }.items():
        cost, found = timed(function, [(wave, RATE) for wave in waves] * 3)
        pairs = list(zip(base, found, strict=False))
        frame = max(np.abs(one - other).max() for one, other in pairs)
        loud = max(abs(np.percentile(one, 95) - np.percentile(other, 95)) for one, other in pairs)
        print(f"{name:50} {cost:7.3f} ms  {frame:7.4f} {loud:7.4f}")


# -- silence ---------------------------------------------------------------------------------------------------------


def used_silence(wave: np.ndarray, rate: int) -> Silence:
    return used.silence(used.frame_levels(wave, rate))


def split_silence(wave: np.ndarray, rate: int, top_db: float, ref: Any = np.max) -> Silence:
    size = round(used.FRAME_SECONDS * rate)
    spoken = librosa.effects.split(wave, top_db=top_db, ref=ref, frame_length=size, hop_length=size)
    edges = np.concatenate([[0], spoken.ravel(), [len(wave)]]).reshape(-1, 2)
    pauses = (edges[:, 1] - edges[:, 0]) / rate
    return pauses[0], pauses[-1], pauses[pauses >= used.PAUSE_SECONDS].sum() * rate / len(wave)


def split_by_our_threshold(wave: np.ndarray, rate: int) -> Silence:
    wave = wave - wave.mean()
    return split_silence(wave, rate, -used.silence_threshold(used.frame_levels(wave, rate)), 1.0)


def compare_silence(waves: Sequence[np.ndarray]) -> None:
    print(f"\nsilence: found in {len(waves)} clips with 1 s of it at the end / in the same {len(waves)} without it")
    rng = np.random.default_rng(0)

    def noisy(wave: np.ndarray, decibels: float) -> np.ndarray:
        loud = np.percentile(used.frame_levels(wave, RATE), 95)
        return wave + rng.normal(0, 10 ** ((loud - decibels) / 20), len(wave)).astype(np.float32)

    def clicked(wave: np.ndarray) -> np.ndarray:
        wave = noisy(wave / 4, 80)
        wave[len(wave) // 2] = 1.0
        return wave

    plants: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "noise -80 dB": lambda wave: noisy(wave, 80),
        "-50 dB": lambda wave: noisy(wave, 50),
        "-40 dB": lambda wave: noisy(wave, 40),
        "DC": lambda wave: noisy(wave / 2, 80) + np.float32(0.05),
        "a click": clicked,
    }
    functions: dict[str, Callable[[np.ndarray, int], Silence]] = {
        "our own, as used": used_silence,
        "librosa.effects.split, our threshold, DC out": split_by_our_threshold,
    }
    for top_db in (60, 45, 30):
        functions[f"librosa.effects.split, top_db={top_db}"] = lambda w, r, top_db=top_db: split_silence(w, r, top_db)
    pairs = [(wave, np.concatenate([wave, np.zeros(RATE, np.float32)])) for wave in waves]
    print(" " * 62, "; ".join(plants))
    for name, function in functions.items():
        cost, _ = timed(function, [(wave, RATE) for wave in waves])
        cells = []
        for planted in plants.values():
            found = [[_is_reported(function(planted(wave), RATE)) for wave in pair] for pair in pairs]
            cells.append("{1}/{0}".format(*np.sum(found, axis=0)))
        print(f"{name:50} {cost:7.3f} ms  {'; '.join(cells)}")


def _is_reported(found: Silence) -> bool:
    return max(found[:2]) > SILENCE_AT_AN_END_SECONDS or found[2] > MOST_SILENCE


# -- bandwidth -------------------------------------------------------------------------------------------------------


def stft_band_limit(wave: np.ndarray, rate: int, is_active: np.ndarray) -> float | None:
    """Return ``band_limit`` from librosa's spectra: the same frames, chosen after the transform."""
    size = 1 << round(np.log2(used.SPECTRUM_SECONDS * rate))
    power = np.abs(librosa.stft(wave, n_fft=size, hop_length=size, center=False)) ** 2
    at = ((np.arange(power.shape[1]) + 0.5) * size / rate / used.FRAME_SECONDS).astype(int)
    active = power[:, is_active[np.minimum(at, len(is_active) - 1)]]
    chosen = active[:, np.linspace(0, active.shape[1] - 1, min(active.shape[1], used.SPECTRUM_FRAMES)).astype(int)]
    return used.band_edge(np.percentile(chosen, 95, axis=1), librosa.fft_frequencies(sr=rate, n_fft=size))


def roll_off(wave: np.ndarray, rate: int, is_active: np.ndarray) -> float:
    del is_active
    return float(np.median(librosa.feature.spectral_rolloff(y=wave, sr=rate, roll_percent=0.99)))


def compare_bandwidth(waves: Sequence[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    print(f"\nbandwidth: found in {FEW} clips upsampled to {UPSAMPLED_TO} Hz; in as many with hiss in the upper band")
    up = {
        rate: [torchaudio.functional.resample(torch.from_numpy(wave), RATE, rate).numpy() for wave in waves[:FEW]]
        for rate in UPSAMPLED_TO
    }
    calls = {rate: [(wave, rate, active_frames(wave, rate)) for wave in up[rate]] for rate in up}
    hissing = [wave + rng.normal(0, 0.1, len(wave)).astype(np.float32) * np.abs(wave).max() for wave in up[24_000]]
    rights = [(wave, 24_000, active_frames(wave, 24_000)) for wave in hissing]
    for name, function in {"our own, as used": used.band_limit, "librosa.stft": stft_band_limit}.items():
        costs, found = zip(*(timed(function, calls[rate]) for rate in up), strict=True)
        counts = [sum(limit is not None for limit in limits) for limits in found]
        false_findings = sum(function(*right) is not None for right in rights)
        long = np.tile(up[48_000][0], 20)
        long_cost, _ = timed(function, [(long, 48_000, active_frames(long, 48_000))] * 5)
        shown = ", ".join(f"{cost:.2f}" for cost in costs)
        print(f"{name:30} {shown} ms ({long_cost:.1f} ms for {len(long) / 48_000:.0f} s)  {counts}; {false_findings}")
    cost, found = timed(roll_off, calls[24_000])
    print(f"librosa's 99 % roll-off: {cost:.2f} ms; {min(found):.0f} to {max(found):.0f} Hz where it ends at 8000 Hz")


# -- pitch -----------------------------------------------------------------------------------------------------------


def autocorrelation_pitch(wave: np.ndarray, rate: int, is_active: np.ndarray) -> float | None:
    """Return the pitch as before librosa: the first autocorrelation peak that is nearly as high as the highest."""
    step = max(1, rate // 8000)
    size, hop = round(used.PITCH_FRAME_SECONDS * rate), round(used.FRAME_SECONDS * rate)
    starts = np.flatnonzero(is_active) * hop
    starts = starts[starts + size <= len(wave)]
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), used.PITCH_FRAMES)).astype(int)]
    frames = np.stack([wave[start : start + size : step] for start in starts])
    frames = frames - frames.mean(axis=1, keepdims=True)
    width = 2 * frames.shape[1]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, width, axis=1)) ** 2, axis=1)
    overlap = 1 - np.arange(frames.shape[1]) / frames.shape[1]
    lags = np.arange(int(rate / step / used.PITCH_HZ[1]), int(rate / step / used.PITCH_HZ[0]))
    normalised = correlation[:, lags] / overlap[lags] / np.maximum(correlation[:, :1], 1e-12)
    best = normalised.max(axis=1)
    beside = np.pad(normalised, ((0, 0), (1, 1)), constant_values=-1.0)
    is_peak = (normalised >= beside[:, :-2]) & (normalised >= beside[:, 2:]) & (normalised > 0.9 * best[:, None])
    voiced = best > used.VOICED
    return float(np.median(rate / step / lags[is_peak.argmax(axis=1)[voiced]])) if voiced.sum() >= 5 else None


def pyin_pitch(wave: np.ndarray, rate: int, is_active: np.ndarray, **how: Any) -> float | None:
    del is_active  # pyin decides which frames are voiced
    hertz, is_voiced, _ = librosa.pyin(wave, fmin=used.PITCH_HZ[0], fmax=used.PITCH_HZ[1], sr=rate, **how)
    return float(np.median(hertz[is_voiced])) if is_voiced.sum() >= used.FEWEST_VOICED_FRAMES else None


def coarse_pyin_pitch(wave: np.ndarray, rate: int, is_active: np.ndarray) -> float | None:
    return pyin_pitch(wave[::2], rate // 2, is_active, frame_length=512, hop_length=160, resolution=0.25)


def voice(hertz: float, lowest: float) -> np.ndarray:
    """Return (samples,) a second of harmonics that fall by 6 dB an octave, without those below ``lowest`` Hz."""
    at = 2 * np.pi * np.arange(RATE) / RATE
    harmonics = [k for k in range(1, int(4000 / hertz)) if k * hertz > lowest]
    return sum(0.2 / k * np.sin(k * hertz * at) for k in harmonics).astype(np.float32)


def _relative_to_speaker(found: Sequence[float | None], speakers: Sequence[str]) -> np.ndarray:
    """Return (clips,) the ratio of each pitch to the median of its speaker; clips without a pitch are left out."""
    of_speaker = defaultdict(list)
    for hertz, speaker in zip(found, speakers, strict=True):
        if hertz is not None:
            of_speaker[speaker].append(hertz)
    return np.concatenate([np.array(own) / np.median(own) for own in of_speaker.values()])


def compare_pitch(waves: Sequence[np.ndarray], speakers: Sequence[str]) -> None:
    print("\npitch: worst error on known voices of 70 to 390 Hz, whole and above 300 Hz; noise called voiced, of 10;")
    print("standard deviation of a speaker's clips in semitones; clips more than half an octave from their speaker")
    rng, all_active = np.random.default_rng(0), np.ones(50, bool)
    calls = [(wave, RATE, active_frames(wave, RATE)) for wave in waves]
    noises = [rng.normal(0, 0.1, RATE).astype(np.float32) for _ in range(10)]
    for name, function in {
        "our own autocorrelation, as before": autocorrelation_pitch,
        "librosa.yin, as used": used.pitch,
        "librosa.pyin, 8 kHz, 8 times as coarse": coarse_pyin_pitch,
        "librosa.pyin": pyin_pitch,
    }.items():
        errors = []
        for lowest in (0, 300):
            found = [(hertz, function(voice(hertz, lowest), RATE, all_active)) for hertz in range(70, 391, 20)]
            errors.append(max(1.0 if own is None else abs(own / hertz - 1) for hertz, own in found))
        voiced = sum(function(noise, RATE, all_active) is not None for noise in noises)
        cost, found = timed(function, calls)
        steps = 12 * np.log2(_relative_to_speaker(found, speakers))
        shown = f"{100 * errors[0]:5.1f} % {100 * errors[1]:5.1f} %  {voiced:2}  {np.std(steps):.2f}"
        print(f"{name:40} {cost:7.2f} ms  {shown}  {(np.abs(steps) > 6).sum()}", flush=True)


# -- starting --------------------------------------------------------------------------------------------------------

START = """
import time
from pathlib import Path
began = time.process_time()
from voice_cloning.data_check import clip_measures
if {loaded}:
    clip_measures.load_librosa()
resident = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]
print(f"{{time.process_time() - began:.1f}} s, {{int(resident) / 1000:.0f}} MB")
"""


def compare_starts() -> None:
    print("\na worker's start, CPU time and memory (librosa is compiled already)")
    for name, loaded in (("before librosa is used", False), ("librosa loaded", True)):
        words = [sys.executable, "-c", START.format(loaded=loaded)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        print(f"{name:40} {done.stdout.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=SAMPLES)
    clips = clips_of(parser.parse_args().folder)
    waves, speakers = [soundfile.read(path, dtype="float32")[0] for path in clips], list(clips.values())
    warnings.simplefilter("ignore", UserWarning)  # pyin with frames of two periods
    used.load_librosa()
    print(f"{len(clips)} clips of {sum(map(len, waves)) / len(clips) / RATE:.1f} s; librosa {librosa.__version__}")
    compare_starts()
    cost, _ = timed(used.measure_file, [([Clip(path, 0.0, None)],) for path in clips])
    print(f"\nall measures of a clip, as used: {cost:.1f} ms, {1000 / cost:.0f} clips a second")
    compare_levels(waves)
    compare_silence(waves)
    compare_bandwidth(waves)
    compare_pitch(waves, speakers)


if __name__ == "__main__":
    main()
