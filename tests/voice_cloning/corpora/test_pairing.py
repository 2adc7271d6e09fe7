"""Valid pairs of reference and target, and sides that share no speaker or no utterance."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from voice_cloning.corpora.pairing import REFERENCE_SECONDS, pair, split
from voice_cloning.corpora.utterances import Utterance


def crowd(speakers: int, each: int) -> list[Utterance]:
    """Return ``each`` utterances of 0.5 to 15 s of each speaker."""
    return [
        Utterance(
            f"{s}-{i}", Path(f"{s}/{i}.wav"), f"نص {i % 40}", f"s{s}", "", seconds=0.5 + (7 * s + i * 13) % 30 / 2
        )
        for s in range(speakers)
        for i in range(each)
    ]


@pytest.mark.parametrize("references", [1, 3])
def test_a_pair_has_one_speaker_two_utterances_and_two_texts(references: int) -> None:
    everyone = crowd(20, 30)
    found = pair(everyone, references, seed=0)
    assert Counter(t.utterance_id for t, _, _ in found.pairs) == {u.utterance_id: references for u in everyone}
    for target, reference, _ in found.pairs:
        assert target.speaker == reference.speaker
        assert target.utterance_id != reference.utterance_id and target.text != reference.text
        assert REFERENCE_SECONDS[0] <= reference.seconds <= REFERENCE_SECONDS[1], "there are enough of these"
    assert len({(t.utterance_id, r.utterance_id) for t, r, _ in found.pairs}) == references * len(everyone)
    used = Counter(r.utterance_id for _, r, _ in found.pairs)
    assert len(used) > 0.6 * sum(3 <= u.seconds <= 10 for u in everyone), "many clips are used as references"


def test_missing_references_are_counted_and_the_closest_lengths_come_first() -> None:
    lengths = {"t": 5.0, "short": 1.0, "nearly": 2.5, "long": 40.0}
    voice = [Utterance(name, Path(name), name, "s", "", seconds=seconds) for name, seconds in lengths.items()]
    found = pair(voice, 2, seed=0)
    assert [r.utterance_id for t, r, _ in found.pairs if t.utterance_id == "t"] == ["nearly", "short"]
    assert pair(voice, 4, seed=0).short == 4


def test_choices_depend_on_the_seed_and_not_on_the_order() -> None:
    everyone = crowd(10, 12)

    def choices(utterances: list[Utterance], seed: int) -> list[Any]:
        train, held = split(utterances, "speaker", 0.2, seed)
        pairs = sorted((t.utterance_id, r.utterance_id) for t, r, _ in pair(train, 1, seed).pairs)
        return [sorted(u.utterance_id for u in held), pairs]

    assert choices(everyone, 0) == choices(everyone[::-1], 0)
    assert choices(everyone, 0) != choices(everyone, 1)


@pytest.mark.parametrize("seed", range(5))
def test_no_speaker_is_on_both_sides(seed: int) -> None:
    everyone = crowd(20, 10) + [Utterance(f"big-{i}", Path(f"{i}"), f"{i}", "big", "", seconds=4.0) for i in range(300)]
    train, held = split(everyone, "speaker", 0.1, seed)
    assert len(train) + len(held) == len(everyone) and train and held
    assert not {u.speaker for u in train} & {u.speaker for u in held}
    assert 0.08 <= len(held) / len(everyone) <= 0.12


@pytest.mark.parametrize("seed", range(5))
def test_split_by_utterance_no_utterance_is_on_both_sides_even_as_a_reference(seed: int) -> None:
    everyone = crowd(10, 20)
    sides = split(everyone, "utterance", 0.1, seed)
    used = [{u.utterance_id for t, r, _ in pair(side, 2, seed).pairs for u in (t, r)} for side in sides]
    assert not used[0] & used[1]
    assert len(used[0] | used[1]) == len(everyone), "each utterance has a reference on its side"
    assert 0.1 <= len(sides[1]) / len(everyone) < 0.13
