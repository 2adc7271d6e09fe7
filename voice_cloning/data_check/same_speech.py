"""Finds clips with the same recorded speech: copies that were cut, encoded, resampled or made louder. Without torch.

It takes three steps, because comparing the waveforms of all clips would take too long:

1. ``landmarks`` makes the fingerprint of a clip: combinations of spectral peaks, after A. Wang, "An Industrial-Strength
   Audio Search Algorithm", ISMIR 2003. A landmark has three peaks where the paper has two, so that few landmarks of
   many clips are equal by chance.
2. ``candidate_pairs`` finds the pairs, among up to about 500,000 clips, with equal landmarks at one time difference;
   ``share_landmarks`` counts them for one pair.
3. ``shared_share`` compares the waveforms of a pair: normalised cross-correlation in short windows, at the lags where
   the whole clips correlate best. Another recording of the same words by the same speaker does not match.

Clips have numbers here; the caller knows which files they are.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

LOWEST_HZ, HIGHEST_HZ = 300, 3600
"""The band that is compared: copies at 8 kHz still have it, and it is above mains hum and most of its harmonics."""
SILENCE = 3e-4
"""A clip is silent if no |sample| is larger: -70 dBFS, far above the dither of 16 bits."""

PEAK_RATE = 8000
HOP = 64
"""Samples at PEAK_RATE between two spectra, 8 ms: the unit of a landmark's time."""
WINDOW, FFT_SIZE = 448, 512
PEAK_HOPS, PEAK_BINS = 12, 12
"""A peak is the largest value within this many hops and bins to each side: 96 ms and 190 Hz."""
PEAK_RANGE = 1e-3
"""Power of the weakest peak, relative to the 95th percentile of the spectra (a click must not set the level)."""
STEADY = 3.0
"""A peak must exceed this multiple of the median power of its bin, which a steady tone does not."""
PEAKS_AHEAD = 5
"""A landmark is a peak with two of the next five."""
TIME_STEP, BIN_STEP = 4, 2
"""Hops and bins that a hash rounds to: the peaks of a copy move a little, because its hops start elsewhere."""
SPECTRA_AT_ONCE = 4096

EQUAL_LANDMARKS = 2
"""Number of equal landmarks at one time difference, with different start times, that makes two clips candidates.

Measured on 128 real utterances: the most changed copies keep 2 to 5, an MP3 copy at 8 kbit/s keeps at least 3. One of
64 excerpts of 2 s keeps none, so reference and target of a record should be compared by ``shared_share`` directly. Of
unrelated clips (the same utterances at 24 speeds), 1 pair in 24,000 has 2 and 1 in 300,000 has 3. With 3, hours of
comparisons among more than 100,000 clips are saved, and one in a hundred of the most changed copies is missed.
"""
OFFSET_HOPS = 3
"""Time differences count as equal within this many hops."""
MAX_SAME_HASH = 200
"""A hash that occurs more often among all clips is ignored: it says little and would make too many pairs."""
PAIRS_AT_ONCE = 1 << 25
"""Approximate number of pairs of equal landmarks in memory: 256 MiB, and twice that while they are sorted."""

WAVE_RATE = 16000
"""Twice the rate that the band needs, so that a rounding error of half a sample in the lag costs little correlation."""
BLOCK = 320
"""Samples at WAVE_RATE, 20 ms: the unit in which speech is counted."""
WINDOW_BLOCKS = 4
STRETCH_WINDOWS = 7
"""Consecutive windows that must correlate at one lag: 200 ms. Single windows also correlate between similar vowels."""
CORRELATED = 0.75
"""Lowest normalised cross-correlation of a window that is a copy; 0.75 allows for codecs at 8 kbit/s."""
ACTIVE = 10**-2.5
"""Lowest energy of an active block, relative to the 95th percentile of the blocks."""
LINE_HZ, LINE = 100, 8.0
"""A line of the spectrum above 8 times the median within 100 Hz is a steady tone and is reduced to that level."""
LAGS, ROUNDS = 3, 4
"""Lags that are tried in a round, and rounds on the rest of the clip: each cut inside a copy needs another lag."""


def _fast_length(n: int) -> int:
    """Return the smallest length of at least ``n`` without prime factors above 5, which is fast for the FFT."""
    best = 1 << max(n - 1, 1).bit_length()
    odd = {3**threes * 5**fives for threes in range(21) for fives in range(14)}
    for factor in odd:
        if factor < best:
            best = min(best, factor << (-(-n // factor) - 1).bit_length())
    return best


def _resampled_spectrum(samples: np.ndarray, rate: int, new_rate: int) -> tuple[np.ndarray, float, int, int]:
    """Return the spectrum from which the inverse FFT makes ``samples`` at ``new_rate``.

    Returns:
        The lines of the spectrum, the Hz between them, the length of the inverse FFT, and the number of its samples to
        keep.
    """
    common = math.gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    blocks = _fast_length(len(samples) // down + 2)  # at least one block of zeros, because the FFT is circular
    lines = np.fft.rfft(np.asarray(samples, np.float32), blocks * down)
    spectrum = np.zeros(blocks * up // 2 + 1, np.complex64)
    kept = min(len(lines), len(spectrum))
    spectrum[:kept] = lines[:kept] * np.float32(up / down)
    return spectrum, rate / (blocks * down), blocks * up, -(-len(samples) * up // down)


def resample_fft(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample (n,) mono samples to (ceil(n * new_rate / rate),) float32, band limited; rates in Hz, integers."""
    if rate == new_rate or not len(samples):
        return np.asarray(samples, np.float32)
    spectrum, _, length, kept = _resampled_spectrum(samples, rate, new_rate)
    return np.fft.irfft(spectrum, length)[:kept].astype(np.float32)


def _silent(samples: np.ndarray) -> bool:
    """Return whether the samples are only dither around a constant, or include NaN."""
    return not len(samples) or not (np.ptp(samples) > 2 * SILENCE)


def _largest_around(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Return the running maximum of non-negative ``values`` over ``reach`` values to each side, by doubling."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (reach, reach)
    largest = np.moveaxis(np.pad(values, padding), axis, 0)
    covered = 1
    while covered < 2 * reach + 1:
        step = min(covered, 2 * reach + 1 - covered)
        largest = np.maximum(largest[:-step], largest[step:])
        covered += step
    return np.moveaxis(largest, 0, axis)


def _peaks(samples: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hops of the spectral peaks in order of time, and their bins, counted from LOWEST_HZ."""
    frames = np.lib.stride_tricks.sliding_window_view(resample_fft(samples, rate, PEAK_RATE), WINDOW)[::HOP]
    window = np.hanning(WINDOW).astype(np.float32)
    first, last = LOWEST_HZ * FFT_SIZE // PEAK_RATE, HIGHEST_HZ * FFT_SIZE // PEAK_RATE
    power = np.concatenate(
        [
            np.abs(np.fft.rfft(frames[i : i + SPECTRA_AT_ONCE] * window, FFT_SIZE)[:, first : last + 1]) ** 2
            for i in range(0, len(frames), SPECTRA_AT_ONCE)
        ]
    )
    # A steady tone would make peaks all the time, and the same peaks in every clip with the tone.
    power = np.maximum(power - STEADY * np.median(power[::4], axis=0), 0)
    level = np.percentile(power.max(1), 95)
    around = _largest_around(_largest_around(power, PEAK_BINS, 1), PEAK_HOPS, 0)
    return np.nonzero((power == around) & (power > PEAK_RANGE * level))


def landmarks(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Make the fingerprint of a clip.

    Args:
        samples: (n,) mono, float; at any gain.
        sampling_rate: in Hz, an integer.

    Returns:
        (m, 2) uint32, a row per landmark: a hash of the frequencies of three peaks and the times between them, and the
        time of the first peak in units of 8 ms. A second of speech has about 55; silence and clips under 56 ms have
        none.
    """
    none = np.zeros((0, 2), np.uint32)
    if _silent(samples) or len(samples) * PEAK_RATE < WINDOW * sampling_rate:
        return none
    hops, bins = _peaks(samples, sampling_rate)
    bins = bins // BIN_STEP
    found = [none]
    for one, other in itertools.combinations(range(1, PEAKS_AHEAD + 1), 2):
        n = max(len(hops) - other, 0)
        to_one = (hops[one : one + n] - hops[:n] + TIME_STEP // 2) // TIME_STEP
        to_other = (hops[other : other + n] - hops[:n] + TIME_STEP // 2) // TIME_STEP
        # 7 + 7 + 7 + 5 + 6 bits. Peaks more than 1 and 2 s apart make no landmark. Neither do three peaks at one time,
        # because any click has those.
        hashes = (
            ((bins[:n] * 128 + bins[one : one + n]) * 128 + bins[other : other + n]) * 2048 + to_one * 64 + to_other
        )
        found.append(
            np.stack([hashes, hops[:n]], axis=1)[(to_one < 32) & (to_other > 1) & (to_other < 64)].astype(np.uint32)
        )
    return np.concatenate(found)


def share_landmarks(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many landmarks of two fingerprints, with different start times, are equal at one time difference."""
    hashes, hops = b[np.argsort(b[:, 0])].T.astype(np.int64)
    first = np.searchsorted(hashes, a[:, 0], "left")
    counts = np.searchsorted(hashes, a[:, 0], "right") - first
    counts[counts > MAX_SAME_HASH] = 0
    # For each landmark of a, the indices first + range(counts) of the equal ones of b, without a loop.
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    times = np.repeat(a[:, 1].astype(np.int64), counts)
    offsets = np.unique((times - hops[np.repeat(first, counts) + within]) << 32 | times) >> 32
    equal = np.searchsorted(offsets, offsets + OFFSET_HOPS, "right") - np.arange(len(offsets))
    return int(equal.max(initial=0))


def candidate_pairs(
    fingerprints: Sequence[np.ndarray], equal_landmarks: int = EQUAL_LANDMARKS
) -> list[tuple[int, int, float]]:
    """Find the pairs of clips that may hold the same speech.

    Hashes that occur more than ``MAX_SAME_HASH`` times are ignored. Speech with more copies than that is not found
    here; ``share_landmarks`` finds it pair by pair.

    Args:
        fingerprints: the result of ``landmarks`` for each clip; up to a million clips of up to 17 minutes.
        equal_landmarks: least number of equal landmarks, as ``share_landmarks`` counts them; at least 2.

    Returns:
        (i, j, seconds) with i < j, sorted: speech of clip j is in clip i about ``seconds`` later.
    """
    lengths = [len(fingerprint) for fingerprint in fingerprints]
    if not sum(lengths):
        return []
    every = np.concatenate(fingerprints)
    keys = (every[:, 0].astype(np.uint64) << 32) | np.arange(len(every), dtype=np.uint64)
    keys.sort()
    starts = np.flatnonzero(np.diff(keys >> 32, prepend=~keys[:1] >> 32))
    sizes = np.diff(starts, append=len(keys))
    is_used = (sizes > 1) & (sizes <= MAX_SAME_HASH)
    order = keys.astype(np.uint32)[np.repeat(is_used, sizes)]  # landmarks with equal ones, by hash, then by clip
    del keys
    sizes = sizes[is_used].astype(np.int64)
    clips = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[order]
    hops = every[order, 1].astype(np.int32)
    ends = np.repeat(np.cumsum(sizes), sizes)
    # A pair is counted with its first clip. Taking the first clips in parts limits the memory.
    parts = 1 + int((sizes * (sizes - 1) // 2).sum()) // PAIRS_AT_ONCE
    found = [
        _consistent(clips, hops, ends, np.flatnonzero(clips % parts == part), len(lengths), equal_landmarks)
        for part in range(parts)
    ]
    return sorted(itertools.chain.from_iterable(found))


def _consistent(
    clips: np.ndarray, hops: np.ndarray, ends: np.ndarray, firsts: np.ndarray, n_clips: int, equal_landmarks: int
) -> list[tuple[int, int, float]]:
    """Return the candidate pairs whose first landmark is in ``firsts``; ``ends`` holds the ends of equal hashes."""
    middle, room = 1 << 17, 1 << 18
    codes = [np.zeros(0, np.int64)]
    for step in itertools.count(1):
        firsts = firsts[firsts + step < ends[firsts]]
        if not len(firsts):
            break
        one, other = clips[firsts].astype(np.int64), clips[firsts + step]
        code = (one * n_clips + other) * room + np.clip(hops[firsts] - hops[firsts + step] + middle, 0, room - 9)
        codes.append((code << 5 | hops[firsts] & 31)[one != other])
    # Five bits of the time are enough to count landmarks with the same start time once.
    code = np.sort(np.concatenate(codes))
    code = code[np.flatnonzero(np.diff(code, prepend=-1))] >> 5
    # After sorting, equal landmarks of a pair at one time difference are neighbours.
    last = equal_landmarks - 1
    code = code[: max(len(code) - last, 0)][code[last:] - code[: max(len(code) - last, 0)] <= OFFSET_HOPS]
    pairs, index = np.unique(code // room, return_index=True)
    seconds = (code[index] % room - middle) * (HOP / PEAK_RATE)
    return list(zip((pairs // n_clips).tolist(), (pairs % n_clips).tolist(), seconds.tolist(), strict=True))


SAME_SPEECH_SHARE = 0.6
"""Two clips hold the same speech if ``shared_share`` is at least this.

Measured on 128 real utterances. Copies (MP3 down to 8 kbit/s, Opus, Vorbis, cut, louder and clipped, resampled, with
noise, and most of these together) had at least 0.86; an excerpt of 2 s had 0.77, and 0.59 as Opus at 7 kbit/s. Other
speech had at most 0.23, and 0.43 if one word of three was the same recording. A buzz as loud as the speech can give 0.6
alone, but makes no equal landmarks.
"""


def _speech_band(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return the band as (blocks, BLOCK) samples at WAVE_RATE, with steady tones reduced, without a partial block."""
    spectrum, hz, length, kept = _resampled_spectrum(samples, rate, WAVE_RATE)
    first, last = int(LOWEST_HZ / hz), int(min(HIGHEST_HZ, 0.45 * rate) / hz)
    spectrum[:first] = 0
    spectrum[last:] = 0
    band = spectrum[first:last]
    # Two clips with the same tone in the background are not the same speech. A tone is one line of the spectrum; the
    # harmonics of a voice are not, because their pitch moves.
    step = max(1, int(LINE_HZ / hz))
    loudness = np.abs(band)
    medians = np.median(np.pad(loudness, (0, -len(band) % step), mode="edge").reshape(-1, step), axis=1)
    limit = LINE * np.repeat(medians, step)[: len(band)]
    np.multiply(band, limit / np.maximum(loudness, 1e-30), out=band, where=loudness > limit)
    wave = np.fft.irfft(spectrum, length)[: kept // BLOCK * BLOCK]
    return wave.astype(np.float32).reshape(-1, BLOCK)


def _window_sums(values: np.ndarray) -> np.ndarray:
    """Return the sums of WINDOW_BLOCKS consecutive values."""
    return np.lib.stride_tricks.sliding_window_view(values, WINDOW_BLOCKS).sum(1)


def _copied(a: np.ndarray, b: np.ndarray, lag: int, sign: float) -> np.ndarray:
    """Return which blocks of ``a`` are in a stretch that ``sign * b`` has too, ``lag`` samples later."""
    padded = np.zeros(a.size, np.float32)
    begin = min(max(0, -lag), a.size)
    end = max(begin, min(a.size, b.size - lag))
    padded[begin:end] = b.ravel()[begin + lag : end + lag]
    other = padded.reshape(a.shape)
    products = _window_sums(np.einsum("ij,ij->i", a, other))
    energies = _window_sums(np.einsum("ij,ij->i", a, a)) * _window_sums(np.einsum("ij,ij->i", other, other))
    correlated = sign * products > CORRELATED * np.sqrt(energies)
    stretches = np.convolve(correlated, np.ones(STRETCH_WINDOWS), "valid") > STRETCH_WINDOWS - 0.5
    return np.convolve(stretches, np.ones(STRETCH_WINDOWS + WINDOW_BLOCKS - 1)) > 0.5


def shared_share(a: np.ndarray, rate_a: int, b: np.ndarray, rate_b: int) -> float:
    """Compare the waveforms of two clips and return how much of their speech is one recording.

    A copy may be cut at its ends and inside, shifted, made louder, inverted, resampled and encoded, but not played
    faster or slower. Stretches under 200 ms are not found.

    Args:
        a, b: (n,) mono, float.
        rate_a, rate_b: their sampling rates in Hz, integers.

    Returns:
        The shared part of the active speech of the clip that has less of it, from 0 to 1; 0 if a clip is silent or
        shorter than 200 ms.
    """
    if _silent(a) or _silent(b):
        return 0.0
    sides = []
    for wave in (_speech_band(a, rate_a), _speech_band(b, rate_b)):
        if len(wave) < STRETCH_WINDOWS + WINDOW_BLOCKS - 1:
            return 0.0
        energies = np.einsum("ij,ij->i", wave, wave)
        sides.append((wave, energies > ACTIVE * np.percentile(energies, 95)))
    (less, active), (more, _) = sorted(sides, key=lambda side: (side[1].sum(), len(side[0])))
    if not active.any():
        return 0.0
    length = _fast_length(less.size + more.size)
    spectrum = np.fft.rfft(more.ravel(), length)
    found = np.zeros(len(less), bool)
    for _ in range(ROUNDS):
        before = found.sum()
        rest = np.where((active & ~found)[:, None], less, 0).ravel()
        for lag, sign in _best_lags(np.conj(np.fft.rfft(rest, length)) * spectrum, length, more.size):
            found |= active & _copied(less, more, lag, sign)
        if found.sum() == before or found.sum() > 0.95 * active.sum():
            break
    return float(found.sum() / active.sum())


def _best_lags(cross: np.ndarray, length: int, longest: int) -> list[tuple[int, float]]:
    """Return the LAGS largest peaks of the cross-correlation with spectrum ``cross``: lags in samples, and signs."""
    # Loud lines are reduced: otherwise the peaks of vowels one pitch period away are nearly as high as the right one.
    size = np.abs(cross)
    cross = cross / np.maximum(size, 1e-6 * size.max(initial=1e-30)) ** 0.8
    correlation = np.fft.irfft(cross, length)
    found = []
    for _ in range(LAGS):
        k = int(np.abs(correlation).argmax())
        found.append((k if k < longest else k - length, float(np.sign(correlation[k]))))
        correlation[max(0, k - 8) : k + 9] = 0
    return found
