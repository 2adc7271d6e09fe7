"""A draw takes each allowed candidate with the same probability, and no other; and the draws of an epoch are quick."""

import time
import tracemalloc

import numpy as np
import pytest

from boson_multimodal.prepared_data.candidate_pool import KEPT, CandidatePool, Takers, mixed
from boson_multimodal.prepared_data.reference_draws import ReferenceDraws
from boson_multimodal.prepared_data.target_speech import TargetSpeech
from boson_multimodal.seeds import seed_of


def random_pool(seed: int) -> tuple[CandidatePool, list[set[int]]]:
    """A pool with joins of up to three groups, and for each taker what it may take, found one by one."""
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 40))
    speakers = random.integers(0, 4, count).astype(np.int32)
    positions = random.integers(1, 12, count).astype(np.int32)
    held = [set(random.choice(6, random.integers(1, 4), replace=False).tolist()) for _ in range(count)]
    pairs = [(candidate, group) for candidate, groups in enumerate(held) for group in sorted(groups)]
    holders, groups = np.array(pairs, np.int32).reshape(-1, 2).T
    takers = Takers(
        np.arange(50, dtype=np.int32),
        random.integers(0, 5, 50).astype(np.int32),
        random.integers(0, 7, 50).astype(np.int32),
        random.integers(-3, 14, 50).astype(np.int32),
    )
    allowed = [
        {c for c in range(count) if speakers[c] == speaker and positions[c] <= room and group not in held[c]}
        for speaker, group, room in zip(takers.speakers, takers.groups, takers.room, strict=True)
    ]
    return CandidatePool(speakers, positions, holders, groups, takers), allowed


@pytest.mark.parametrize("seed", range(25))
def test_the_allowed_candidates_are_those_that_a_search_finds(seed: int) -> None:
    pool, allowed = random_pool(seed)
    assert pool.allowed.tolist() == list(map(len, allowed))
    drawn = [pool.draw(mixed(np.arange(50), epoch)) for epoch in range(400)]
    for taker, wanted in enumerate(allowed):
        found = {int(draws[taker]) for draws in drawn}
        assert found == (wanted or {KEPT}), "each is drawn at last, and no other"


def chi_square(drawn: np.ndarray, count: int) -> float:
    """Of the numbers of draws of ``count`` candidates, in standard deviations from its mean."""
    found = np.unique(drawn, return_counts=True)[1]
    assert len(found) == count
    expected = len(drawn) / count
    return float((((found - expected) ** 2 / expected).sum() - (count - 1)) / np.sqrt(2 * (count - 1)))


@pytest.mark.parametrize("count", [8, 60])
def test_draws_are_uniform_over_epochs_and_over_samples(count: int) -> None:
    """Each taker is one of the candidates and may draw the others."""
    none = np.zeros(count, np.int32)
    takers = Takers(np.arange(count, dtype=np.int32), none, np.arange(count, dtype=np.int32), none + 100)
    pool = CandidatePool(none, none + 5, np.arange(count), np.arange(count), takers)
    drawn = np.array([pool.draw(mixed(np.arange(count), seed_of(7, epoch))) for epoch in range(3000)])
    assert max(chi_square(drawn[:, taker], count - 1) for taker in range(count)) < 4
    assert chi_square(((drawn - np.arange(count)) % count).ravel(), count - 1) < 4
    if count == 8:  # neighbours, and epochs that follow each other, draw independently
        assert chi_square(drawn[:, 0] * count + drawn[:, 1], (count - 1) ** 2) < 4
        assert chi_square(drawn[1:, 0] * count + drawn[:-1, 0], (count - 1) ** 2) < 4


def made_speech(samples: int, speakers: int) -> TargetSpeech:
    """Targets of 1 to 14 s; of every fourth speaker at most 3 s. Four targets of a speaker may be the same speech."""
    random = np.random.default_rng(0)
    numbers = np.arange(samples, dtype=np.int32)
    speaker = random.integers(-1, speakers, samples).astype(np.int32)
    frames = random.integers(25, np.where(speaker % 4 == 0, 75, 350)).astype(np.int32)
    texts = frames // 4 + 1
    return TargetSpeech(
        numbers=numbers,
        speakers=speaker,
        groups=np.where(speaker < 0, numbers, (random.integers(0, 64, samples) + 64 * speaker)).astype(np.int32),
        clips=numbers,
        frames=frames,
        texts=texts,
        joined_texts=np.where(frames < 75, texts + 1, 0).astype(np.int32),
        rest=frames + texts + 40,
        limit=900,
        around_clip=9,
        frames_per_second=25,
    )


def test_an_epoch_of_half_a_million_samples_is_drawn_in_a_second_and_little_memory() -> None:
    speech = made_speech(500_000, 2000)
    draws = ReferenceDraws(speech, 3)
    began = time.process_time()
    found = draws.of_epoch(1)
    sizes = found.sizes(speech)
    assert time.process_time() - began < 1
    assert ((found.drawn == KEPT) == (speech.speakers < 0)).all()
    assert int((speech.rest + sizes[1]).max()) <= draws.longest <= 900
    del found, sizes
    tracemalloc.start()
    draws.of_epoch(2)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 40e6
