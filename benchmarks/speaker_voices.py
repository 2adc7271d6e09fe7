"""Measures how well voices are told apart, on real speech: clip by clip, and in the check of training data.

    OMP_NUM_THREADS=1 python -m benchmarks.speaker_voices

The data are ../shared/samples: 128 clips of 3 to 7 s by 20 speakers. The speakers are halved. The figures of each half
are measured with the threshold and the correction that are computed from the other half, so no speaker is judged with
what was set on this speaker. Intervals are 95 % by bootstrap over speakers. References are crossed at random with fixed
seeds. "Similar pitch" crosses only with the five speakers whose median pitch is nearest, which are mostly of one sex.
"""

import argparse
import io
import json
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from boson_multimodal.audio_processing.sound_files import Clip, read_samples
from voice_cloning.data_check.clip_measures import measure_file
from voice_cloning.data_check.voice_similarity import FOUND_SHARE, find_threshold, pair_similarities, voices_of
from voice_cloning.speech.speaker_embedding import (
    RESEMBLYZER,
    Calibration,
    SpeakerEmbedding,
    load_speaker_model,
    scaled_vectors,
)

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples" / "arabic_speech_commands"
RATE = 16_000
DRAWS, BOOTSTRAPS = 20, 1000
WHOLE = 0.0
SHORT_SECONDS = (3.0, 2.5, 2.0)
NEAR_PITCHES = 5
CROSSES = (
    ("no reference crossed", 0.0, False),
    ("one in ten crossed", 0.1, False),
    ("all crossed", 1.0, False),
    ("all crossed, similar pitch", 1.0, True),
)
"""Title, share of crossed references, whether only with voices of similar pitch."""
Counts = dict[str, tuple[int, int]]
"""Speaker -> (accused or missed, all)."""


@dataclass(frozen=True)
class Voices:
    """Clips of some speakers.

    Attributes:
        names: (clips,) the speakers.
        embeddings: of the clips.
        records: (reference, target), as numbers of clips.
        pitches: (clips,) median pitch in Hz.
        clips: the clips.
    """

    names: np.ndarray
    embeddings: list[SpeakerEmbedding]
    records: list[tuple[int, int]]
    pitches: np.ndarray
    clips: list[Clip]

    def of(self, speakers: Sequence[str]) -> "Voices":
        """Return the clips of some speakers."""
        kept = np.flatnonzero(np.isin(self.names, speakers))
        number = {old: new for new, old in enumerate(kept.tolist())}
        records = [(number[r], number[t]) for r, t in self.records if r in number and t in number]
        embeddings, clips = ([values[i] for i in kept] for values in (self.embeddings, self.clips))
        return Voices(self.names[kept], embeddings, records, self.pitches[kept], clips)

    def vectors(self, calibration: Calibration) -> np.ndarray:
        return scaled_vectors(self.embeddings, calibration.half_seconds)

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all pairs of clips as two (pairs,) arrays, and whether they are of one speaker."""
        one, other = np.triu_indices(len(self.names), 1)
        return one, other, self.names[one] == self.names[other]


def read_voices(model_name: str, lengths: Sequence[float] = SHORT_SECONDS) -> tuple[Voices, dict[float, Voices], float]:
    """Embed all clips, whole and cut to some seconds of speech. Returns whole, cut, and clips per second."""
    records = [
        record
        for side in ("train", "val")
        for record in json.loads((SAMPLES / f"{side}_chatml_samples.json").read_text(encoding="utf-8"))
    ]
    pairs = [
        (r["messages"][1]["content"][1]["audio_url"], r["messages"][2]["content"][1]["audio_url"]) for r in records
    ]
    paths = sorted({path for pair in pairs for path in pair})
    number, names = {path: i for i, path in enumerate(paths)}, np.array([path.split("/")[-2] for path in paths])
    clips = [Clip(SAMPLES / path, 0.0, None) for path in paths]
    pitches = np.array([measure_file([clip])[0].pitch_hz or 0.0 for clip in clips])
    model = load_speaker_model(model_name)
    waves = [read_samples(clip) for clip in clips]
    model.embed(waves[0][0].mean(axis=1), waves[0][1])  # what is loaded or compiled at the first use
    start = time.process_time()
    embeddings = [model.embed(samples.mean(axis=1), rate) for samples, rate in waves]
    speed = len(clips) / (time.process_time() - start)
    whole = Voices(names, embeddings, [(number[r], number[t]) for r, t in pairs], pitches, clips)
    short = {}
    for seconds in lengths:
        cut = []
        for samples, rate in waves:
            wave = samples.mean(axis=1)
            speech = model._speech(wave - wave.mean())[: round(seconds * rate)]
            vector = model._vector(speech)
            cut.append(SpeakerEmbedding(vector / np.linalg.norm(vector), len(speech) / rate))
        short[seconds] = replace(whole, embeddings=cut)
    return whole, short, speed


def noisy(wave: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, wave.std() / 10, len(wave))
    return (wave + noise).astype(np.float32)


def echoing(wave: np.ndarray) -> np.ndarray:
    """Return a wave in a room: 0.4 s of decaying noise after the direct sound, which has a fifth of the energy."""
    numbers, size = np.random.default_rng(0), round(0.4 * RATE)
    late = numbers.normal(0, 1, size) * np.exp(-6.9 * np.arange(size) / size)
    late[0] = 0.0
    late[0] = np.linalg.norm(late) / 2
    return np.convolve(wave, late / np.linalg.norm(late))[: len(wave)].astype(np.float32)


def telephone(wave: np.ndarray) -> np.ndarray:
    return resample(resample(torch.from_numpy(wave), RATE, RATE // 2), RATE // 2, RATE).numpy()


def opus(wave: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="OGG", subtype="OPUS")
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "30 dB softer": lambda wave: wave / np.float32(10**1.5),
    "resampled to 8 kHz": telephone,
    "encoded as Opus": opus,
    "with white noise 20 dB below it": noisy,
    "with echo": echoing,
}


def accused_if_changed(whole: Voices, model_name: str, calibration: Calibration) -> dict[str, Counts]:
    """Return the right pairs that are accused, without neighbours, if one clip of each is changed."""
    model, (one, other, is_same) = load_speaker_model(model_name), whole.pairs()
    found = {}
    for title, change in CHANGES.items():
        embeddings = [model.embed(change(read_samples(clip)[0].mean(axis=1)), RATE) for clip in whole.clips]
        heard = np.array([embedding is not None for embedding in embeddings])
        pairs = np.flatnonzero(is_same & heard[one])
        blank = SpeakerEmbedding(np.zeros_like(whole.embeddings[0].vector), 1.0)
        changed = scaled_vectors([e or blank for e in embeddings], calibration.half_seconds)
        similarity = np.einsum("nd,nd->n", changed[one[pairs]], whole.vectors(calibration)[other[pairs]])
        found[title] = count_by_speaker(whole.names[one[pairs]], similarity < calibration.threshold)
    return found


def count_by_speaker(names: np.ndarray, accused: np.ndarray) -> Counts:
    return {name: (int(accused[names == name].sum()), int((names == name).sum())) for name in np.unique(names)}


def equal_error_rate(similarity: np.ndarray, is_same: np.ndarray) -> float:
    """Return the rate at which as many pairs of one speaker are rejected as pairs of two speakers are accepted."""
    thresholds = np.sort(similarity)
    rejected = np.searchsorted(np.sort(similarity[is_same]), thresholds) / is_same.sum()
    accepted = 1 - np.searchsorted(np.sort(similarity[~is_same]), thresholds) / (~is_same).sum()
    at = np.argmin(np.abs(rejected - accepted))
    return float(rejected[at] + accepted[at]) / 2


def interval_of_eer(voices: Voices, similarity: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the equal error rate; drawing a speaker twice makes no pairs of "two" speakers."""
    one, other, is_same = voices.pairs()
    speakers, numbers = np.unique(voices.names), np.random.default_rng(0)
    found = []
    for _ in range(BOOTSTRAPS):
        weight = dict(zip(*np.unique(numbers.choice(speakers, len(speakers)), return_counts=True), strict=True))
        of_clip = np.array([weight.get(name, 0) for name in voices.names])
        counts = np.where(is_same, of_clip[one], of_clip[one] * of_clip[other])
        found.append(equal_error_rate(np.repeat(similarity, counts), np.repeat(is_same, counts)))
    return tuple(np.quantile(found, [0.025, 0.975]))


def calibrate(whole: Voices, short: dict[float, Voices]) -> Calibration:
    """Return the correction that makes median similarities most equal for all lengths, and the threshold with it."""
    one, other, is_same = whole.pairs()

    def spread(half_seconds: float) -> float:
        medians = []
        for voices in (whole, *short.values()):
            vectors = scaled_vectors(voices.embeddings, half_seconds)
            similarity = np.einsum("nd,nd->n", vectors[one], vectors[other])
            medians.append((np.median(similarity[is_same]), np.median(similarity[~is_same])))
        return float(np.ptp(medians, axis=0).sum())

    half = min((n / 100 for n in range(101)), key=spread)
    vectors = scaled_vectors(whole.embeddings, half)
    similarity = np.einsum("nd,nd->n", vectors[one[~is_same]], vectors[other[~is_same]])
    return Calibration(float(np.quantile(similarity, FOUND_SHARE)), half)


def crossed(voices: Voices, seed: int, share: float, near_pitch: bool) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return the records with some references replaced by clips of other speakers, and (records,) which they are."""
    numbers, names = np.random.default_rng(seed), voices.names
    pitch = {name: np.median(voices.pitches[names == name]) for name in np.unique(names)}
    records, is_crossed = [], numbers.random(len(voices.records)) < share
    for (reference, target), change in zip(voices.records, is_crossed, strict=True):
        others = sorted(
            (n for n in pitch if n != names[target]), key=lambda n, t=target: abs(pitch[n] - pitch[names[t]])
        )
        allowed = others[:NEAR_PITCHES] if near_pitch else others
        drawn = numbers.choice(np.flatnonzero(np.isin(names, allowed)))
        records.append((int(drawn) if change else reference, target))
    return records, is_crossed


def judged(voices: Voices, calibration: Calibration, share: float, near_pitch: bool = False) -> tuple[Counts, Counts]:
    """Return the crossed references that are found and the right ones that are accused, by the target's speaker."""
    found: Counts = {}
    accused: Counts = {}
    for seed in range(DRAWS if share else 1):
        records, is_crossed = crossed(voices, seed, share, near_pitch)
        similarity = pair_similarities(voices.vectors(calibration), records, calibration.threshold)
        for (_, target), value, change in zip(records, similarity, is_crossed, strict=True):
            counts, name = found if change else accused, voices.names[target]
            count, total = counts.get(name, (0, 0))
            counts[name] = (count + int(value < calibration.threshold), total + 1)
    return found, accused


def all_right_pairs(voices: Voices, calibration: Calibration) -> Counts:
    """Return the accused among all pairs of one speaker's clips, not only those of the records."""
    one, other, is_same = voices.pairs()
    pairs = list(zip(one[is_same].tolist(), other[is_same].tolist(), strict=True))
    wrong = pair_similarities(voices.vectors(calibration), pairs, calibration.threshold) < calibration.threshold
    return count_by_speaker(voices.names[one[is_same]], wrong)


def two_clips_each(voices: Voices, calibration: Calibration) -> tuple[Counts, Counts]:
    """As :func:`judged` with all references crossed and none, if each speaker has two clips only: one pair."""
    found: dict[str, list[int]] = {name: [0, 0] for name in np.unique(voices.names)}
    accused: dict[str, list[int]] = {name: [0, 0] for name in found}
    for seed in range(DRAWS):
        numbers = np.random.default_rng(seed)
        kept = np.concatenate([numbers.permutation(np.flatnonzero(voices.names == name))[:2] for name in found])
        vectors, names = voices.vectors(calibration)[kept], voices.names[kept]
        one, other = np.triu_indices(len(kept), 1)
        pairs = list(zip(one.tolist(), other.tolist(), strict=True))
        wrong = pair_similarities(vectors, pairs, calibration.threshold) < calibration.threshold
        for (i, j), is_wrong in zip(pairs, wrong, strict=True):
            counts = (accused if names[i] == names[j] else found)[names[j]]
            counts[0], counts[1] = counts[0] + int(is_wrong), counts[1] + 1
    return {n: (a, b) for n, (a, b) in found.items() if b}, {n: (a, b) for n, (a, b) in accused.items()}


def shown(counts: Counts, distinct: int = 0) -> str:
    """Return a share with its interval over speakers; if there is no case at all, the exact binomial interval.

    Args:
        distinct: number of different pairs, if they were counted in several draws.
    """
    values = np.array(list(counts.values()), float)
    numbers = np.random.default_rng(0).integers(0, len(values), (BOOTSTRAPS, len(values)))
    sums = values[numbers].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    count, total = values.sum(axis=0).astype(int)
    if count == 0:
        high = 1 - 0.025 ** (1 / (distinct or total))
    return f"{100 * count / total:.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({count} of {total})"


@dataclass(frozen=True)
class Half:
    """Half of the speakers, with the calibration from the other half; ``lengths`` is seconds of speech -> clips."""

    lengths: dict[float, Voices]
    calibration: Calibration


def halves_of(whole: Voices, short: dict[float, Voices]) -> list[Half]:
    """Return both halves of the speakers."""
    speakers = np.unique(whole.names)
    halves = (speakers[: len(speakers) // 2], speakers[len(speakers) // 2 :])
    made = []
    for own, other in (halves, halves[::-1]):
        calibration = calibrate(whole.of(other), {s: v.of(other) for s, v in short.items()})
        made.append(Half({WHOLE: whole.of(own)} | {s: v.of(own) for s, v in short.items()}, calibration))
    return made


def join(counts: Iterable[Counts]) -> Counts:
    """Join the counts of different speakers."""
    return {name: count for own in counts for name, count in own.items()}


def names_that_hold_two_voices(whole: Voices, calibration: Calibration) -> tuple[int, int, int, int]:
    """Return single speakers that seem several, all speakers, pairs under one name that seem several, all pairs."""
    vectors, speakers = whole.vectors(calibration), np.unique(whole.names)

    def is_several(names: Sequence[str]) -> bool:
        return bool(voices_of(vectors[np.isin(whole.names, names)], calibration.threshold).any())

    two = [is_several(pair) for pair in combinations(speakers, 2)]
    return sum(is_several([name]) for name in speakers), len(speakers), sum(two), len(two)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speaker_model", default=RESEMBLYZER)
    model_name = parser.parse_args().speaker_model
    whole, short, speed = read_voices(model_name)
    one, other, is_same = whole.pairs()
    print(
        f"{len(whole.names)} clips, {speed:.1f} per second of CPU time; "
        f"{is_same.sum()} pairs of one voice, {(~is_same).sum()} of two"
    )
    for title, half in (("cosine", 0.0), ("corrected for length", calibrate(whole, short).half_seconds)):
        vectors = scaled_vectors(whole.embeddings, half)
        similarity = np.einsum("nd,nd->n", vectors[one], vectors[other])
        low, high = interval_of_eer(whole, similarity)
        rate = equal_error_rate(similarity, is_same)
        print(f"equal error rate, {title}: {100 * rate:.1f} % [{100 * low:.1f}, {100 * high:.1f}]; chance 50 %")
    everything, halves = calibrate(whole, short), halves_of(whole, short)
    print(f"calibrated on all speakers: {everything}, on a half: {[half.calibration for half in halves]}")
    for title, share, near in CROSSES:
        counts = [judged(half.lengths[WHOLE], half.calibration, share, near) for half in halves]
        found, accused = (join(own) for own in zip(*counts, strict=True))
        parts = [f"crossed ones found: {shown(found)}"] if found else []
        parts += [f"right ones accused: {shown(accused, len(whole.records))}"] if accused else []
        print(f"{title}: {'; '.join(parts)}")
    for length in (WHOLE, *SHORT_SECONDS):
        right = join(all_right_pairs(h.lengths[length], h.calibration) for h in halves)
        found = join(judged(h.lengths[length], h.calibration, 1.0)[0] for h in halves)
        name = f"{length:g} s of speech" if length else "whole clips"
        print(f"{name}: all right pairs accused: {shown(right)}; crossed ones found: {shown(found)}")
    found, accused = map(join, zip(*(two_clips_each(h.lengths[WHOLE], h.calibration) for h in halves), strict=True))
    print(f"two clips of each speaker: right pairs accused: {shown(accused)}; crossed ones found: {shown(found)}")
    itself = []
    for half in halves:
        own = half.lengths[WHOLE]
        threshold, _ = find_threshold(own.vectors(Calibration(0.0)), list(own.names))
        itself.append((own, Calibration(threshold)))
    right, found = join(all_right_pairs(*own) for own in itself), join(judged(*own, 1.0)[0] for own in itself)
    print(f"thresholds found from the data, {[round(c.threshold, 3) for _, c in itself]}, no correction: ", end="")
    print(f"all right pairs accused: {shown(right)}; crossed ones found: {shown(found)}")
    single, names, pairs, all_pairs = names_that_hold_two_voices(whole, everything)
    print(f"names with several voices: {single} of {names} single speakers, {pairs} of {all_pairs} pairs of speakers")
    for title, counts in accused_if_changed(whole, model_name, everything).items():
        print(f"one clip {title}: right pairs accused, without neighbours: {shown(counts)}")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
