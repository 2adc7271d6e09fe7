"""The best checkpoint is the one that is heard to be better; loss decides only where nothing heard does."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from boson_multimodal.errors import InputError
from voice_cloning.evaluation.intervals import Interval
from voice_cloning.evaluation.selection import CheckpointResult, better, select

CLIPS = 200


def result(name: str, *, understood: float, loss: float, ends: int = CLIPS, **further: Any) -> CheckpointResult:
    """A checkpoint that speaks single words; the same ones are hard for every checkpoint."""
    hard = np.random.default_rng(0).random(CLIPS)
    return CheckpointResult(
        name=name,
        ended={clip: clip < ends for clip in range(CLIPS)},
        word_errors={clip: int(hard[clip] >= understood) for clip in range(CLIPS)},
        words=dict.fromkeys(range(CLIPS), 1),
        evaluation_loss=loss,
        **further,
    )


def forgetting(value: float, half: float = 0.02) -> Interval:
    return Interval(value, value - half, value + half, 100, "given")


def test_words_that_are_understood_decide_against_the_loss() -> None:
    early = result("step 300", understood=0.23, loss=3.40)
    late = result("step 900", understood=0.355, loss=3.70)
    verdict = better(late, early)
    assert (verdict.is_better, verdict.rule) == (True, "wer")
    assert verdict.difference.high < 0 and verdict.difference.n == CLIPS
    assert str(verdict).startswith("better by wer: -0.1")
    assert not better(early, late).is_better
    assert not better(late, early, by="loss").is_better and not better(late, early, by="stop_rate").is_better


def test_clips_that_do_not_end_decide_before_words() -> None:
    ending = result("ending", understood=0.2, loss=3.0)
    endless = result("endless", understood=0.6, loss=2.0, ends=100)
    for by in ("wer", "stop_rate"):
        assert (better(endless, ending, by).is_better, better(endless, ending, by).rule) == (False, "stop_rate")
        assert better(ending, endless, by).is_better
    assert better(endless, ending, by="loss").is_better


def test_where_what_is_heard_is_alike_the_voice_decides_and_then_the_loss() -> None:
    rng = np.random.default_rng(1)
    voice = dict(enumerate(rng.normal(0.6, 0.1, CLIPS)))
    nearer = {clip: value + 0.05 + 0.02 * rng.normal() for clip, value in voice.items()}
    one = result("one", understood=0.5, loss=2.0, similarity=voice)
    two = result("two", understood=0.505, loss=2.5, similarity=nearer)
    assert (better(two, one).is_better, better(two, one).rule) == (True, "similarity")
    without = replace(two, similarity={})
    assert (better(without, one).is_better, better(without, one).rule) == (False, "loss")
    assert better(one, without).is_better
    assert not better(replace(one, name="again"), one).is_better, "the older one stays"


@pytest.mark.parametrize(("ours", "theirs", "wanted"), [(float("nan"), 2.0, False), (2.0, float("inf"), True)])
def test_a_loss_that_is_not_finite_is_worse(ours: float, theirs: float, wanted: bool) -> None:
    candidate, best = (result("x", understood=0.5, loss=loss) for loss in (ours, theirs))
    assert better(candidate, best).is_better is wanted


def test_without_any_figure_in_common_the_best_stays() -> None:
    verdict = better(CheckpointResult(name="b"), CheckpointResult(name="a"))
    assert (verdict.is_better, verdict.rule, str(verdict)) == (False, "nothing", "not better by nothing")


def test_only_clips_of_both_are_compared() -> None:
    best = CheckpointResult(name="a", ended=dict.fromkeys(range(40), False))
    candidate = CheckpointResult(name="b", ended=dict.fromkeys(range(10, 60), True))
    assert better(candidate, best).difference.n == 30


def test_who_forgot_too_much_for_certain_is_out() -> None:
    base_like = result("kept", understood=0.1, loss=3.0, forgetting=forgetting(0.02))
    unsure = result("unsure", understood=0.5, loss=3.0, forgetting=forgetting(0.06, half=0.03))
    forgot = result("forgot", understood=0.9, loss=1.0, forgetting=forgetting(0.3))
    assert (better(forgot, base_like).is_better, better(forgot, base_like).rule) == (False, "retention")
    assert better(forgot, base_like, max_forgetting=0.5).is_better
    assert better(base_like, forgot).rule == "retention" and better(base_like, forgot).is_better
    assert better(unsure, base_like).rule == "wer"
    assert select([forgot]).best is None and select([forgot, base_like]).best == "kept"


def test_each_checkpoint_is_compared_with_the_best_before_it() -> None:
    steps = [
        result("300", understood=0.23, loss=3.4),
        result("450", understood=0.25, loss=3.5),
        result("600", understood=0.32, loss=3.6),
        result("750", understood=0.33, loss=3.5),
    ]
    found = select(steps)
    assert found.best == "750"
    assert [(candidate, best) for candidate, best, _ in found.comparisons] == [
        ("300", None),
        ("450", "300"),
        ("600", "300"),
        ("750", "600"),
    ]
    assert [verdict.rule for *_, verdict in found.comparisons] == ["first", "loss", "wer", "loss"]
    assert select(steps, by="loss").best == "300" and select([]).best is None


def test_several_seeds_of_a_sentence_are_one_unit() -> None:
    """Ten sentences, spoken with twenty seeds each: the candidate ends two of the sentences that the best does not."""
    clips = [(sentence, seed) for sentence in range(10) for seed in range(20)]
    best = CheckpointResult(name="a", ended={clip: clip[0] >= 2 for clip in clips})
    candidate = CheckpointResult(name="b", ended=dict.fromkeys(clips, True))
    assert better(candidate, best).rule == "stop_rate"
    by_sentence = replace(best, units={clip: clip[0] for clip in clips})
    assert better(candidate, by_sentence).rule == "nothing"


def test_equal_checkpoints_are_rarely_told_apart_by_what_is_heard() -> None:
    rng = np.random.default_rng(2)
    clips, decided = range(64), Counter()
    for _ in range(500):
        both = [
            CheckpointResult(
                name="x",
                ended=dict(enumerate(rng.random(64) < 0.9)),
                word_errors=dict(enumerate(rng.binomial(8, 0.3, 64))),
                words=dict.fromkeys(clips, 8),
            )
            for _ in range(2)
        ]
        decided[better(*both).rule] += 1
    assert decided["nothing"] > 425
    assert all(decided[rule] / 500 <= 0.07 for rule in ("stop_rate", "wer"))


def report_of(speaker: str | None, seeds: int = 1) -> dict[str, Any]:
    """The parts of a report.json that are read: two checkpoints of 40 sentences, the second of which is better."""

    def clip(seed: int, wrong: bool) -> dict[str, Any]:
        errors = {"word_errors": 4 * wrong, "words": 5, "character_errors": 8 * wrong, "characters": 20}
        return {"seed": seed, "ended": True, "errors": {"scoring": errors}, "sim_reference": None}

    return {
        "systems": [{"name": "early"}, {"name": "late"}],
        "items": [
            {
                "id": f"s{n}",
                "speaker": speaker and f"{speaker} {n % 4}",
                "clips": {
                    name: [clip(seed, n < wrong) for seed in range(seeds)]
                    for name, wrong in (("early", 30), ("late", 8))
                },
            }
            for n in range(40)
        ],
    }


@pytest.mark.parametrize(("speaker", "seeds", "units"), [("voice", 1, 4), (None, 1, None), (None, 3, 40)])
def test_checkpoints_are_read_from_a_report(speaker: str | None, seeds: int, units: int | None) -> None:
    report = report_of(speaker, seeds)
    early, late = (CheckpointResult.of_report(report, name) for name in ("early", "late"))
    assert len(late.ended) == len(late.words) == 40 * seeds and late.similarity == {}
    verdict = better(late, early)
    assert (verdict.is_better, verdict.rule) == (True, "wer")
    assert (
        f"{units} groups of sentences" in verdict.difference.method
        if units
        else "40 sentences" in verdict.difference.method
    )
    with pytest.raises(InputError, match=r"base: the report has no clip of it; it has \['early', 'late'\]"):
        CheckpointResult.of_report(report, "base")


def test_wrong_input_is_named() -> None:
    one = result("one", understood=0.5, loss=2.0)
    with pytest.raises(InputError, match="by is 'cer'; it must be one of"):
        better(one, one, by="cer")
    other = replace(one, name="other", words={**one.words, 3: 2})
    with pytest.raises(InputError, match="other: 2 words in clip 3, where one has 1"):
        better(other, one)
