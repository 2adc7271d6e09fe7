"""Which samples are spoken: spread over the speakers, under safe names, in batches that fit a budget."""

import random
from collections import Counter

import pytest

from voice_cloning.evaluation.asked_samples import (
    LARGEST_BATCH,
    AskedSample,
    cache_positions,
    file_names,
    speech_batches,
    spread_order,
)
from voice_cloning.speech.requests import LONGEST_ID_BYTES


def asked(index: int, prompt: int, columns: int) -> AskedSample:
    return AskedSample(
        index=index,
        sample_id=str(index),
        file_name=str(index),
        speaker=None,
        text="",
        seed=index,
        prompt_positions=prompt,
        most_columns=columns,
        true_frames=1,
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_first_samples_are_spread_over_the_speakers(seed: int) -> None:
    speakers = ["amal"] * 50 + ["basma"] * 3 + ["dina"] * 20 + [None]
    random.Random(seed).shuffle(speakers)
    order = spread_order(speakers, seed)
    assert sorted(order) == list(range(len(speakers))), "each sample once"
    for count in (1, 4, 7, 10, 40):
        found = Counter(speakers[index] for index in order[:count])
        for speaker, number in found.items():
            unused = [s for s in set(speakers) - {speaker} if found[s] < min(number - 1, speakers.count(s))]
            assert not unused, f"{count}: {speaker} has {number}, and {unused} could have had more"


def test_the_seed_chooses_the_samples_and_nothing_else_does() -> None:
    speakers = ["amal", "basma"] * 50
    assert spread_order(speakers, 3) == spread_order(speakers, 3)
    assert len({tuple(sorted(spread_order(speakers, seed)[:10])) for seed in range(10)}) == 10


def test_ids_become_file_names_that_differ() -> None:
    ids = ["a/b", "a_b", "A_B", "a_b-2", "..", ".writing-x", "C:\\x", "record 3", "\u0633\u0644\u0627\u0645", "\ud800"]
    ids += ["x\ny", "x" * 300, "x" * 301, "\u0633" * 150, "\u0633" * 150, "a_b", "\x00"]
    names = file_names(ids)
    assert names[:4] == ["a_b", "a_b-2", "A_B-3", "a_b-2-2"]
    assert names[4:9] == ["_.", "_writing-x", "C__x", "record 3", "\u0633\u0644\u0627\u0645"]
    assert len({name.casefold() for name in names}) == len(ids)
    for name in names:
        assert name.isprintable() and not set(name) & set("/\\:") and not name.startswith(".")
        assert 0 < len(name.encode()) <= LONGEST_ID_BYTES + len("-99")


def test_batches_hold_similar_caps_and_fit_the_budget() -> None:
    draw = random.Random(0)
    samples = [asked(index, draw.randint(50, 400), draw.randint(20, 900)) for index in range(64)]
    samples.append(asked(64, 5000, 5000))
    batches = speech_batches(samples, 8192)
    assert sorted(sample.index for batch in batches for sample in batch) == list(range(65))
    assert all(len(batch) <= LARGEST_BATCH for batch in batches)
    assert [batch[0].index for batch in batches if cache_positions(batch) > 8192] == [64]
    caps = [sample.most_columns for batch in batches for sample in batch]
    assert caps == sorted(caps)
    assert speech_batches(samples[::-1], 8192) == batches, "the order of the samples does not count"


def test_64_small_samples_are_work_for_four_processes() -> None:
    assert [len(batch) for batch in speech_batches([asked(i, 5, 5) for i in range(64)], 10**6)] == [16] * 4
