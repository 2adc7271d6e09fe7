"""Measures the search for clips with the same speech: fingerprints, candidates among many clips, one comparison.

    OMP_NUM_THREADS=1 python -m benchmarks.same_speech_speed [--clips 100000 --landmarks 150]

The fingerprint and the comparison use 6 s of synthetic speech at 24 kHz. The many fingerprints are random. Their hashes
are equal by chance as often as in real speech (one pair of landmarks in 2 ** 25); ten fingerprints have a copy.
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np

from tools.demo.speech import SAMPLE_RATE, VOICES, spoken_sentences, synthesise
from voice_cloning.data_check.same_speech import candidate_pairs, landmarks, shared_share

COPIES = 10


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the shortest time of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--landmarks", type=int, default=150, help="number per clip")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    sentences = spoken_sentences()
    one, other = (
        np.concatenate([synthesise(text, VOICES[voice], rng) for text in sentences[:6]])[: 6 * SAMPLE_RATE]
        for voice in ("amal", "badr")
    )
    print(f"fingerprint of 6 s: {1e3 * seconds(lambda: landmarks(one, SAMPLE_RATE)):.1f} ms")
    copy, other = (seconds(lambda clip=clip: shared_share(one, SAMPLE_RATE, clip, 24000)) for clip in (-one, other))
    print(f"comparison of 6 s: {1e3 * copy:.1f} ms for a copy, {1e3 * other:.1f} ms for other speech")
    hashes = rng.integers(1 << 25, size=(args.clips, args.landmarks))
    hops = np.sort(rng.integers(750, size=hashes.shape))
    fingerprints = list(np.stack([hashes, hops], axis=2).astype(np.uint32))
    fingerprints[-COPIES:] = fingerprints[:COPIES]
    start = time.perf_counter()
    found = candidate_pairs(fingerprints)
    print(f"{len(found)} candidates of {args.clips:,} clips: {time.perf_counter() - start:.1f} s")
    print(f"largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
