"""Measures how well clips are grouped by voice (``--speaker_from cluster``), on real speech of 20 known speakers.

    OMP_NUM_THREADS=1 python -m benchmarks.clustered_voices

The data are ../shared/samples: 128 clips of 3 to 7 s by 20 speakers. In each of 100 draws the speakers are halved at
random. The threshold and the correction for length are chosen on one half, and 5 or all 10 speakers of the other half
are grouped with them, so no speaker is judged with what was set on this speaker. Chance is a random assignment with
groups of the same sizes. In brackets is the range of the middle 95 % of the draws. The last rows use the project's own
threshold, which is set on the same 20 speakers.
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.speaker_voices import CHANGES, RATE, SHORT_SECONDS, WHOLE, Voices, calibrate, read_voices
from boson_multimodal.audio_processing.sound_files import read_samples
from voice_cloning.corpora.voice_clusters import CLUSTERED_THRESHOLD
from voice_cloning.speech.speaker_embedding import (
    RESEMBLYZER,
    RESEMBLYZER_CALIBRATION,
    Calibration,
    load_speaker_model,
    scaled_vectors,
)
from voice_cloning.speech.voice_groups import MOST_LINKED, linked_groups, mean_vectors, nearest_groups, voices_among

DRAWS, CHANCES = 100, 20
JOINING_SECONDS = (1.5, 1.0, 0.7)
"""Speech of clips that are too short to take part, and join the nearest group."""
THRESHOLDS = np.arange(0.8, 0.9801, 0.005)
FEW_SPEAKERS = 5
LINKED_PART = 40
"""Clips that are linked at a time, to measure what happens with more than ``MOST_LINKED`` clips."""


@dataclass(frozen=True)
class Scores:
    """How groups agree with the speakers. All but ``voices`` are 1 if they are the same.

    Attributes:
        voices: number of groups.
        purity: share of clips whose group has their speaker for its largest part.
        b_cubed: harmonic mean of precision (share of a clip's group that is of its speaker) and recall (share of the
            clip's speaker that is in its group), each averaged over clips.
        rand: adjusted Rand index of pairs of clips; 0 is chance.
    """

    voices: float
    purity: float
    b_cubed: float
    rand: float

    @classmethod
    def of(cls, groups: np.ndarray, names: np.ndarray) -> "Scores":
        """Compare (clips,) groups with the (clips,) names of the speakers."""
        group, name = (np.unique(values, return_inverse=True)[1] for values in (groups, names))
        table = np.zeros((group.max() + 1, name.max() + 1))
        np.add.at(table, (group, name), 1)
        sizes, clips = (table.sum(axis=1), table.sum(axis=0)), table.sum()
        precision, recall = ((table**2 / size).sum() / clips for size in (sizes[0][:, None], sizes[1]))
        pairs, *both = (float((counts * (counts - 1) / 2).sum()) for counts in (table, *sizes))
        expected = both[0] * both[1] / (clips * (clips - 1) / 2)
        rand = (pairs - expected) / (sum(both) / 2 - expected)
        return cls(len(table), table.max(axis=1).sum() / clips, 2 * precision * recall / (precision + recall), rand)


def chosen_threshold(vectors: np.ndarray, names: np.ndarray) -> float:
    """Return the middle of the thresholds with the highest B-cubed."""
    found = np.array([Scores.of(linked_groups(vectors, t), names).b_cubed for t in THRESHOLDS])
    return float(THRESHOLDS[found >= found.max() - 1e-9].mean())


def by_chance(groups: np.ndarray, names: np.ndarray, numbers: np.random.Generator) -> list[Scores]:
    return [Scores.of(numbers.permutation(groups), names) for _ in range(CHANCES)]


def joined(voices: Voices, short: Voices, calibration: Calibration) -> np.ndarray:
    """Return the shares of short clips that join a group of their speaker, join another one, and join none.

    The groups are those of the whole clips. Each short clip is compared with the groups without its own whole clip.
    """
    vectors, cut = voices.vectors(calibration), short.vectors(calibration)
    groups, counts = linked_groups(vectors, calibration.threshold), np.zeros(3)
    for i in range(len(vectors)):
        others = np.arange(len(vectors)) != i
        numbers = np.unique(groups[others], return_inverse=True)[1]
        nearest, similarity = nearest_groups(cut[i : i + 1], mean_vectors(vectors[others], numbers))
        names, sizes = np.unique(voices.names[others][numbers == nearest[0]], return_counts=True)
        is_right = names[sizes.argmax()] == voices.names[i]
        counts[2 if similarity[0] < calibration.threshold else 0 if is_right else 1] += 1
    return counts / len(vectors)


def shown(scores: Sequence[Scores]) -> str:
    """Return the means of scores, with the range of the middle 95 %."""
    parts = []
    for title, name, form in (
        ("voices", "voices", "{:.1f}"),
        ("purity", "purity", "{:.3f}"),
        ("B-cubed", "b_cubed", "{:.3f}"),
        ("adjusted Rand", "rand", "{:.3f}"),
    ):
        values = np.array([getattr(one, name) for one in scores])
        low, high = (form.format(value) for value in np.quantile(values, [0.025, 0.975]))
        parts.append(f"{title} {form.format(values.mean() + 0.0)}" + (f" [{low}, {high}]" if len(values) > 1 else ""))
    return ", ".join(parts)


def measure_halves(whole: Voices, short: dict[float, Voices]) -> None:
    """Print the scores of speakers on whom nothing was set."""
    speakers, numbers = np.unique(whole.names), np.random.default_rng(0)
    scores: dict[tuple[float, int], list[Scores]] = {}
    chance: dict[tuple[float, int], list[Scores]] = {}
    shares: dict[float, list[np.ndarray]] = {seconds: [] for seconds in JOINING_SECONDS}
    thresholds = []
    calibrating = {seconds: short[seconds] for seconds in SHORT_SECONDS}
    for _ in range(DRAWS):
        order = numbers.permutation(speakers)
        chosen, judged = order[: len(order) // 2], order[len(order) // 2 :]
        half_seconds = calibrate(whole.of(chosen), {s: v.of(chosen) for s, v in calibrating.items()}).half_seconds
        known = whole.of(chosen)
        threshold = chosen_threshold(scaled_vectors(known.embeddings, half_seconds), known.names)
        calibration = Calibration(threshold, half_seconds)
        thresholds.append(threshold)
        for seconds, count in ((WHOLE, len(judged)), (WHOLE, FEW_SPEAKERS), *((s, len(judged)) for s in SHORT_SECONDS)):
            voices = (short[seconds] if seconds else whole).of(judged[:count])
            groups = linked_groups(voices.vectors(calibration), threshold)
            scores.setdefault((seconds, count), []).append(Scores.of(groups, voices.names))
            chance.setdefault((seconds, count), []).extend(by_chance(groups, voices.names, numbers))
        for seconds, found in shares.items():
            found.append(joined(whole.of(judged), short[seconds].of(judged), calibration))
    low, middle, high = np.quantile(thresholds, [0.025, 0.5, 0.975])
    print(f"thresholds chosen on 10 speakers: {middle:.3f} [{low:.3f}, {high:.3f}]")
    for (seconds, count), found in scores.items():
        right = sum(one.voices == count for one in found)
        title = f"{count} other speakers, " + (f"{seconds:g} s of speech" if seconds else "whole clips")
        print(f"{title}: {shown(found)}; right number in {right} of {len(found)} draws")
        print(f"    chance: {shown(chance[seconds, count])}")
    for seconds, found in shares.items():
        right, wrong, none = 100 * np.mean(found, axis=0)
        print(f"{seconds:g} s of speech: {right:.1f} % join their voice, {wrong:.1f} % another, {none:.1f} % none")


def changed(whole: Voices, model_name: str, change: Callable[[np.ndarray], np.ndarray]) -> Voices:
    """Return the clips, every second one of each speaker changed. Those with too little speech then are left out."""
    model, embeddings = load_speaker_model(model_name), list(whole.embeddings)
    for name in np.unique(whole.names):
        for i in np.flatnonzero(whole.names == name)[::2]:
            embeddings[i] = model.embed(change(read_samples(whole.clips[i])[0].mean(axis=1)), RATE)
    heard = [i for i, embedding in enumerate(embeddings) if embedding is not None]
    clips = [whole.clips[i] for i in heard]
    return Voices(whole.names[heard], [embeddings[i] for i in heard], [], whole.pitches[heard], clips)


def measure_all(whole: Voices, model_name: str) -> None:
    """Print the scores of all speakers with the project's threshold, also with changed clips and in parts."""
    calibration = Calibration(CLUSTERED_THRESHOLD, RESEMBLYZER_CALIBRATION.half_seconds)
    vectors = whole.vectors(calibration)
    print(f"threshold chosen on all speakers: {chosen_threshold(vectors, whole.names):.3f}; used: {calibration}")
    for threshold in (RESEMBLYZER_CALIBRATION.threshold, 0.86, 0.88, 0.89, CLUSTERED_THRESHOLD, 0.91, 0.92, 0.94):
        print(f"all, threshold {threshold:g}: {shown([Scores.of(linked_groups(vectors, threshold), whole.names)])}")
    groups = voices_among(vectors, CLUSTERED_THRESHOLD, most=LINKED_PART)
    print(f"all, linked in parts of {LINKED_PART}: {shown([Scores.of(groups, whole.names)])}")
    for title, change in CHANGES.items():
        voices = changed(whole, model_name, change)
        groups = linked_groups(voices.vectors(calibration), CLUSTERED_THRESHOLD)
        print(f"every second clip {title} ({len(groups)} clips): {shown([Scores.of(groups, voices.names)])}")


def measure_size(clips: int) -> None:
    """Print what grouping costs, with made vectors of voices with ten clips each."""
    numbers = np.random.default_rng(0)
    voices = np.repeat(numbers.normal(0, 1, (clips // 10, 256)), 10, axis=0)
    vectors = voices + numbers.normal(0, 0.2, voices.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    start = time.process_time()
    found = voices_among(vectors, CLUSTERED_THRESHOLD).max() + 1
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    cost = f"{seconds:.0f} s of CPU time, peak memory {memory:.1f} GB"
    print(f"{clips} made vectors of {clips // 10} voices: {found} found, {cost}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[MOST_LINKED, 10 * MOST_LINKED], metavar="CLIPS")
    sizes = parser.parse_args().sizes
    whole, short, speed = read_voices(RESEMBLYZER, (*SHORT_SECONDS, *JOINING_SECONDS))
    speakers = len(np.unique(whole.names))
    print(f"{len(whole.names)} clips of {speakers} speakers; {speed:.1f} embedded per second of CPU time")
    measure_halves(whole, short)
    measure_all(whole, RESEMBLYZER)
    for clips in sizes:
        measure_size(clips)


if __name__ == "__main__":
    main()
