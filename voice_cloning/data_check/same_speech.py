"""Clips that hold the same recorded speech: copies that were cut, encoded, resampled or made louder. Without torch.

In three steps, each cheaper than comparing all clips by their waveforms:

1. ``landmarks`` makes the fingerprint of a clip: combinations of spectral peaks, after A. Wang, "An Industrial-Strength
   Audio Search Algorithm", ISMIR 2003, with three peaks to a landmark where the paper has two, so that chance makes
   few of them equal among many clips.
2. ``candidate_pairs`` finds the pairs of clips, among up to some 500,000, with equal landmarks at one time difference;
   ``share_landmarks`` counts them for one pair.
3. ``shared_share`` compares the waveforms of a pair: normalised cross-correlation in short windows at the lags where
   the whole clips correlate best. Another recording of the same words by the same speaker does not pass.

Clips are numbers of a sequence here; which files they are is the caller's business.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

LOWEST_HZ, HIGHEST_HZ = 300, 3600
"""Band that is looked at: what copies at 8 kHz still have, above the hum of the mains and most of its harmonics."""
SILENCE = 3e-4
"""Largest |sample| of a clip that counts as silent: -70 dBFS, far above the dither of 16 bits."""

PEAK_RATE = 8000
HOP = 64
"""Samples at PEAK_RATE between two spectra, 8 ms: the unit of a landmark's time."""
WINDOW, FFT_SIZE = 448, 512
PEAK_HOPS, PEAK_BINS = 12, 12
"""A peak is the largest value within that many hops and bins to each side: 96 ms and 190 Hz."""
PEAK_RANGE = 1e-3
"""Power of the weakest peak, relative to what one spectrum in twenty reaches (a click must not set the level)."""
STEADY = 3.0
"""What exceeds so many times the median of its bin's power may be a peak: anything but a steady tone."""
PEAKS_AHEAD = 5
"""A landmark is a peak with two of the next five."""
TIME_STEP, BIN_STEP = 4, 2
"""Hops and bins that a hash takes as one: a copy's peaks move a little, as its hops begin elsewhere."""
SPECTRA_AT_ONCE = 4096

EQUAL_LANDMARKS = 2
"""Equal landmarks at one time difference, each beginning at another time, that make two clips candidates.

Measured on 128 real utterances, of which the most changed copies keep 2 to 5, and an MP3 copy at 8 kbit/s at least 3.
One of 64 excerpts of 2 s keeps none: compare reference and target of a record by ``shared_share`` itself. Of unrelated
clips, the same utterances at 24 speeds, 1 pair in 24,000 has 2, 1 in 300,000 has 3. So 3 saves hours of comparisons
among more than 100,000 clips, and misses one in a hundred of the most changed copies.
"""
OFFSET_HOPS = 3
"""Time differences within so many hops of each other are one."""
MAX_SAME_HASH = 200
"""A hash that occurs more often among all clips tells nothing and would make too many pairs: it is ignored."""
PAIRS_AT_ONCE = 1 << 25
"""Pairs of equal landmarks in memory at one time, about: 256 MiB, and as much again while they are sorted."""

WAVE_RATE = 16000
"""Twice what the band needs: half a sample of lag, the most that rounding leaves, then costs little correlation."""
BLOCK = 320
"""Samples at WAVE_RATE, 20 ms: the unit in which speech is counted."""
WINDOW_BLOCKS = 4
STRETCH_WINDOWS = 7
"""Consecutive windows that must correlate at one lag: 200 ms. Single windows also do where vowels are alike."""
CORRELATED = 0.75
"""Normalised cross-correlation of a window that is a copy: 0.75 leaves room for codecs at 8 kbit/s."""
ACTIVE = 10**-2.5
"""Energy of an active block, relative to what one block in twenty reaches."""
LINE_HZ, LINE = 100, 8.0
"""A line of the spectrum louder than 8 times the median within 100 Hz is a steady tone and is held to that."""
LAGS, ROUNDS = 3, 4
"""Lags that are tried at once, and how often the search goes on in what is left: each cut inside needs a lag more."""


def _fast_length(n: int) -> int:
    """The smallest length of at least ``n`` with no prime factor above 5, which the FFT likes."""
    best = 1 << max(n - 1, 1).bit_length()
    odd = {3**threes * 5**fives for threes in range(21) for fives in range(14)}
    for factor in odd:
        if factor < best:
            best = min(best, factor << (-(-n // factor) - 1).bit_length())
    return best


def _resampled_spectrum(samples: np.ndarray, rate: int, new_rate: int) -> tuple[np.ndarray, float, int, int]:
    """The spectrum from which the inverse FFT makes ``samples`` at ``new_rate``.

    Returns:
        its lines; Hz from one to the next; length of the inverse FFT; how many of its samples there are to keep.
    """
    common = math.gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    blocks = _fast_length(len(samples) // down + 2)  # at least a block of zeros, since the FFT takes it as a circle
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
    """Whether nothing is there but dither around a constant; also where a sample is not a number."""
    return not len(samples) or not (np.ptp(samples) > 2 * SILENCE)


def _largest_around(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Running maximum of non-negative ``values`` over ``reach`` to each side, by doubling."""
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
    """Spectral peaks by time: their hops, and their bins from LOWEST_HZ on."""
    frames = np.lib.stride_tricks.sliding_window_view(resample_fft(samples, rate, PEAK_RATE), WINDOW)[::HOP]
    window = np.hanning(WINDOW).astype(np.float32)
    first, last = LOWEST_HZ * FFT_SIZE // PEAK_RATE, HIGHEST_HZ * FFT_SIZE // PEAK_RATE
    power = np.concatenate(
        [
            np.abs(np.fft.rfft(frames[i : i + SPECTRA_AT_ONCE] * window, FFT_SIZE)[:, first : last + 1]) ** 2
            for i in range(0, len(frames), SPECTRA_AT_ONCE)
        ]
    )
    # A steady tone would have peaks all the time, and the same ones in every clip that has the tone.
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
        (m, 2) uint32, a row per landmark: a hash of the frequencies of three peaks and of the time between them, and
        the time of the first, in units of 8 ms. About 55 for a second of speech, none for silence or under 56 ms.
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
        # 7 + 7 + 7 + 5 + 6 bits. Peaks further apart than 1 and 2 s have no landmark, nor have three at one time: any
        # click has those.
        hashes = (
            ((bins[:n] * 128 + bins[one : one + n]) * 128 + bins[other : other + n]) * 2048 + to_one * 64 + to_other
        )
        found.append(
            np.stack([hashes, hops[:n]], axis=1)[(to_one < 32) & (to_other > 1) & (to_other < 64)].astype(np.uint32)
        )
    return np.concatenate(found)


def share_landmarks(a: np.ndarray, b: np.ndarray) -> int:
    """How many landmarks of two fingerprints, each beginning at another time, are equal at one time difference."""
    hashes, hops = b[np.argsort(b[:, 0])].T.astype(np.int64)
    first = np.searchsorted(hashes, a[:, 0], "left")
    counts = np.searchsorted(hashes, a[:, 0], "right") - first
    counts[counts > MAX_SAME_HASH] = 0
    # The k-th equal landmark of b for each of a: all in one array, as if by a loop over first + range(counts).
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    times = np.repeat(a[:, 1].astype(np.int64), counts)
    offsets = np.unique((times - hops[np.repeat(first, counts) + within]) << 32 | times) >> 32
    equal = np.searchsorted(offsets, offsets + OFFSET_HOPS, "right") - np.arange(len(offsets))
    return int(equal.max(initial=0))


def candidate_pairs(
    fingerprints: Sequence[np.ndarray], equal_landmarks: int = EQUAL_LANDMARKS
) -> list[tuple[int, int, float]]:
    """Find the pairs of clips that may hold the same speech.

    Hashes that occur more than ``MAX_SAME_HASH`` times in all are ignored. So speech of which there are more copies
    than that is not found here; ``share_landmarks`` finds it pair by pair.

    Args:
        fingerprints: of each clip, from ``landmarks``; up to a million clips of up to 17 minutes.
        equal_landmarks: as ``share_landmarks`` counts them, at least 2.

    Returns:
        (i, j, seconds) with i < j, sorted: what clip j has at a time, clip i has about that many seconds later.
    """
    lengths = [len(fingerprint) for fingerprint in fingerprints]
    if not sum(lengths):
        return []
    every = np.concatenate(fingerprints)
    keys = (every[:, 0].astype(np.uint64) << 32) | np.arange(len(every), dtype=np.uint64)
    keys.sort()
    starts = np.flatnonzero(np.diff(keys >> 32, prepend=~keys[:1] >> 32))
    sizes = np.diff(starts, append=len(keys))
    told = (sizes > 1) & (sizes <= MAX_SAME_HASH)
    order = keys.astype(np.uint32)[np.repeat(told, sizes)]  # of the landmarks that others equal, by hash, then by clip
    del keys
    sizes = sizes[told].astype(np.int64)
    clips = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[order]
    hops = every[order, 1].astype(np.int32)
    ends = np.repeat(np.cumsum(sizes), sizes)
    # A pair is counted with its first clip: one share of the clips after the other bounds what is in memory.
    parts = 1 + int((sizes * (sizes - 1) // 2).sum()) // PAIRS_AT_ONCE
    found = [
        _consistent(clips, hops, ends, np.flatnonzero(clips % parts == part), len(lengths), equal_landmarks)
        for part in range(parts)
    ]
    return sorted(itertools.chain.from_iterable(found))


def _consistent(
    clips: np.ndarray, hops: np.ndarray, ends: np.ndarray, firsts: np.ndarray, n_clips: int, equal_landmarks: int
) -> list[tuple[int, int, float]]:
    """``candidate_pairs`` of the clips of the landmarks ``firsts``; ``ends`` are those of the runs of equal hashes."""
    middle, room = 1 << 17, 1 << 18
    codes = [np.zeros(0, np.int64)]
    for step in itertools.count(1):
        firsts = firsts[firsts + step < ends[firsts]]
        if not len(firsts):
            break
        one, other = clips[firsts].astype(np.int64), clips[firsts + step]
        code = (one * n_clips + other) * room + np.clip(hops[firsts] - hops[firsts + step] + middle, 0, room - 9)
        codes.append((code << 5 | hops[firsts] & 31)[one != other])
    # Five bits of the time are enough to count those that begin at one time once.
    code = np.sort(np.concatenate(codes))
    code = code[np.flatnonzero(np.diff(code, prepend=-1))] >> 5
    # Sorted, equal landmarks of a pair at one time difference stand next to each other.
    last = equal_landmarks - 1
    code = code[: max(len(code) - last, 0)][code[last:] - code[: max(len(code) - last, 0)] <= OFFSET_HOPS]
    pairs, index = np.unique(code // room, return_index=True)
    seconds = (code[index] % room - middle) * (HOP / PEAK_RATE)
    return list(zip((pairs // n_clips).tolist(), (pairs % n_clips).tolist(), seconds.tolist(), strict=True))


SAME_SPEECH_SHARE = 0.6
"""``shared_share`` from which on two clips hold the same speech.

Measured on 128 real utterances. Copies (MP3 down to 8 kbit/s, Opus, Vorbis, cut, louder and clipped, resampled, with
noise, and most of that at once): at least 0.86; an excerpt of 2 s 0.77, at Opus' 7 kbit/s 0.59. Other speech: 0.23 at
most; one word of three that is the same recording: 0.43. A buzz as loud as the speech can give 0.6 by itself, but
makes no equal landmarks.
"""


def _speech_band(samples: np.ndarray, rate: int) -> np.ndarray:
    """(blocks, BLOCK) samples at WAVE_RATE of the band alone, with steady tones held down; the last block is cut."""
    spectrum, hz, length, kept = _resampled_spectrum(samples, rate, WAVE_RATE)
    first, last = int(LOWEST_HZ / hz), int(min(HIGHEST_HZ, 0.45 * rate) / hz)
    spectrum[:first] = 0
    spectrum[last:] = 0
    band = spectrum[first:last]
    # Two clips with one tone behind them are not the same speech. A tone is a line; a voice's harmonics are not, as
    # their pitch moves.
    step = max(1, int(LINE_HZ / hz))
    loudness = np.abs(band)
    medians = np.median(np.pad(loudness, (0, -len(band) % step), mode="edge").reshape(-1, step), axis=1)
    limit = LINE * np.repeat(medians, step)[: len(band)]
    np.multiply(band, limit / np.maximum(loudness, 1e-30), out=band, where=loudness > limit)
    wave = np.fft.irfft(spectrum, length)[: kept // BLOCK * BLOCK]
    return wave.astype(np.float32).reshape(-1, BLOCK)


def _window_sums(values: np.ndarray) -> np.ndarray:
    """Sums of WINDOW_BLOCKS consecutive values."""
    return np.lib.stride_tricks.sliding_window_view(values, WINDOW_BLOCKS).sum(1)


def _copied(a: np.ndarray, b: np.ndarray, lag: int, sign: float) -> np.ndarray:
    """Which blocks of ``a`` lie in a stretch that ``sign * b`` has too, ``lag`` samples later."""
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
    """How much of the speech of two clips is one recording, by their waveforms.

    A copy may be cut at its ends and inside, shifted, made louder or inverted, resampled and encoded; not played faster
    or slower. Stretches under 200 ms are not found.

    Args:
        a, b: (n,) mono, float.
        rate_a, rate_b: their sampling rates in Hz, integers.

    Returns:
        The part, 0 to 1, of the active speech of the clip that has less of it which the other one has too; 0 where
        one is silent or shorter than 200 ms.
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
    """The LAGS largest peaks of the cross-correlation with spectrum ``cross``: lags in samples, and signs."""
    # Loud lines are held back, or the peaks of vowels one pitch period away would be nearly as high as the right one.
    size = np.abs(cross)
    cross = cross / np.maximum(size, 1e-6 * size.max(initial=1e-30)) ** 0.8
    correlation = np.fft.irfft(cross, length)
    found = []
    for _ in range(LAGS):
        k = int(np.abs(correlation).argmax())
        found.append((k if k < longest else k - length, float(np.sign(correlation[k]))))
        correlation[max(0, k - 8) : k + 9] = 0
    return found
