"""Intervals cover what they claim, on sets whose truth is known; and no set, however odd, gets a wrong one."""

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from boson_multimodal.errors import InputError
from tests.voice_cloning.evaluation.simulated_sets import SETS, WordErrorModel, draw_of_speakers
from voice_cloning.evaluation import intervals
from voice_cloning.evaluation.intervals import (
    Interval,
    mean_interval,
    median_interval,
    paired_mean_difference,
    paired_ratio_difference,
    paired_share_difference,
    quantile_interval,
    ratio_interval,
    share_interval,
)

USUAL = WordErrorModel(mean=0.2)
SIX_POINTS = WordErrorModel(mean=0.15)
"""Of two systems of this kind, alike in 7 of 10 sentences, the difference of a sentence's word error rates has a
standard deviation of 0.20 (``test_the_spread_...``)."""
ALIKE = 0.7


def rate(of_set: Callable[[np.random.Generator, int], bool], seed: int) -> float:
    """Return the share of the simulated sets for which ``of_set`` is true."""
    rng = np.random.default_rng(seed)
    return sum(of_set(rng, number) for number in range(SETS)) / SETS


def coverage(model: WordErrorModel, sentences: int) -> float:
    def covers(rng: np.random.Generator, number: int) -> bool:
        found = ratio_interval(*model.draw(rng, sentences), seed=number // 100)
        return found.low <= model.true_rate <= found.high

    return rate(covers, seed=sentences)


def called_different(model: WordErrorModel, sentences: int, better_by: float) -> float:
    def differs(rng: np.random.Generator, number: int) -> bool:
        drawn = model.draw_pair(rng, sentences, better_by, ALIKE)
        return paired_ratio_difference(*drawn, seed=number // 100).excludes_zero

    return rate(differs, seed=sentences)


@pytest.mark.parametrize("sentences", [100, 200])
def test_the_interval_of_the_word_error_rate_covers_the_truth(sentences: int) -> None:
    assert 0.93 <= coverage(USUAL, sentences) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("sentences", [100, 200])
@pytest.mark.parametrize(
    "model",
    [WordErrorModel(0.05), WordErrorModel(0.1), WordErrorModel(0.6), WordErrorModel(0.15, runaways=0.03)],
    ids=["few errors", "some errors", "most words wrong", "runaways"],
)
def test_the_interval_covers_the_truth_of_other_systems(model: WordErrorModel, sentences: int) -> None:
    assert 0.93 <= coverage(model, sentences) <= 0.97


@pytest.mark.parametrize("sentences", [20, 100])
def test_with_hardly_any_error_the_interval_covers_more_rather_than_less(sentences: int) -> None:
    assert coverage(WordErrorModel(0.005, spread=3.0), sentences) >= 0.95


@pytest.mark.parametrize("clips", [100, 200])
@pytest.mark.parametrize("share", [0.9, 0.99, 1.0])
def test_the_interval_of_a_stop_rate_covers_the_truth(share: float, clips: int) -> None:
    drawn, counts = np.unique(np.random.default_rng(clips).binomial(clips, share, SETS), return_counts=True)
    found = [share_interval(int(successes), clips) for successes in drawn]
    covered = sum(count for i, count in zip(found, counts, strict=True) if i.low <= share <= i.high)
    assert covered / SETS >= 0.93


def test_equal_systems_are_called_different_in_five_percent_of_sets() -> None:
    assert 0.03 <= called_different(SIX_POINTS, 200, better_by=0.0) <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("sentences", [100, 200])
@pytest.mark.parametrize("mean", [0.03, 0.1, 0.3])
def test_equal_systems_of_any_quality_are_called_different_in_five_percent_of_sets(mean: float, sentences: int) -> None:
    assert 0.03 <= called_different(WordErrorModel(mean), sentences, better_by=0.0) <= 0.07


def test_six_points_are_found_in_two_hundred_sentences() -> None:
    assert called_different(SIX_POINTS, 200, better_by=0.06) >= 0.9


def test_the_spread_per_sentence_of_the_simulated_difference_is_as_stated() -> None:
    a, b, words = SIX_POINTS.draw_pair(np.random.default_rng(0), 100_000, 0.06, ALIKE)
    assert ((b - a) / words).std() == pytest.approx(0.20, abs=0.005)
    assert (b.sum() - a.sum()) / words.sum() == pytest.approx(-0.06, abs=0.003)


@pytest.mark.parametrize(("speakers", "at_most"), [(5, 1.0), (20, 0.97)])
def test_speakers_are_resampled_where_each_has_several_sentences(speakers: int, at_most: float) -> None:
    by_speaker, by_sentence = [], []
    rng = np.random.default_rng(speakers)
    for _ in range(SETS // 2):
        errors, words, speaker_of = draw_of_speakers(rng, speakers, 100 // speakers, mean=0.25, spread=20.0)
        for groups, covered in ((speaker_of, by_speaker), (None, by_sentence)):
            found = ratio_interval(errors, words, groups)
            covered.append(found.low <= 0.25 <= found.high)
    assert 0.92 <= np.mean(by_speaker) <= at_most
    assert np.mean(by_sentence) < np.mean(by_speaker) - 0.02


def test_the_studentised_bootstrap_equals_a_slow_one() -> None:
    errors, words = USUAL.draw(np.random.default_rng(1), 40)
    (counts,) = intervals._blocks(intervals._draws, 40, seed=5)

    def with_error(units: np.ndarray) -> tuple[float, float]:
        e, w = errors[units], words[units]
        value = e.sum() / w.sum()
        return value, np.sqrt(len(units) * np.var(e - value * w, ddof=1)) / w.sum()

    value, error = with_error(np.arange(40))
    drawn = [with_error(np.repeat(np.arange(40), row.astype(int))) for row in counts]
    distances = [(resampled - value) / its_error for resampled, its_error in drawn]
    low, high = (value - np.quantile(distances, share) * error for share in (0.975, 0.025))
    found = ratio_interval(errors, words, seed=5)
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), rel=1e-9)


def test_it_is_near_the_bca_interval_of_scipy_in_a_large_set() -> None:
    errors, words = USUAL.draw(np.random.default_rng(2), 1000)
    bca = stats.bootstrap(
        (errors, words),
        lambda e, w, axis: e.sum(axis) / w.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=intervals.RESAMPLES,
        rng=np.random.default_rng(3),
    ).confidence_interval
    found = ratio_interval(errors, words)
    assert [found.low, found.high] == pytest.approx([bca.low, bca.high], abs=0.1 * (bca.high - bca.low))


def test_a_mean_is_a_ratio_with_equal_totals_and_a_difference_that_of_its_parts() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.beta(8, 2, 50), rng.beta(9, 2, 50)
    mean, ratio = mean_interval(a), ratio_interval(a, np.ones(50))
    assert (mean.value, mean.low, mean.high) == (ratio.value, ratio.low, ratio.high) and mean.value == a.mean()
    difference = paired_mean_difference(a, b)
    assert difference.value == pytest.approx(b.mean() - a.mean())
    assert paired_mean_difference(b, a).low == pytest.approx(-difference.high)
    assert paired_ratio_difference(a, b, np.full(50, 2.0)).high == pytest.approx(difference.high / 2)


def test_a_paired_difference_is_narrower_than_the_two_figures() -> None:
    a, b, words = USUAL.draw_pair(np.random.default_rng(5), 200, 0.05, alike=0.9)
    difference = paired_ratio_difference(a, b, words)
    apart = [ratio_interval(errors, words) for errors in (a, b)]
    assert difference.high - difference.low < 0.8 * np.hypot(*(i.high - i.low for i in apart))


def test_the_order_and_the_names_of_speakers_do_not_matter_to_what_is_resampled() -> None:
    errors, words, speaker_of = draw_of_speakers(np.random.default_rng(6), 10, 5, 0.2, 20.0)
    named = [f"speaker {number}" for number in speaker_of]
    assert ratio_interval(errors, words, named) == ratio_interval(errors, words, speaker_of)
    assert "10 groups of sentences" in ratio_interval(errors, words, named).method
    sums = [np.bincount(speaker_of, numbers) for numbers in (errors, words)]
    of_sums = ratio_interval(*sums)
    assert ratio_interval(errors, words, speaker_of).low == pytest.approx(of_sums.low)


def test_one_speaker_or_one_sentence_of_each_leaves_the_sentences() -> None:
    errors, words = USUAL.draw(np.random.default_rng(7), 60)
    alone, of_one = ratio_interval(errors, words), ratio_interval(errors, words, ["amal"] * 60)
    assert (of_one.low, of_one.high, of_one.n) == (alone.low, alone.high, 60)
    assert "one group" in of_one.method
    assert ratio_interval(errors, words, range(60)) == alone


def test_a_mean_ends_at_its_bounds() -> None:
    shares = [1.0] * 60 + [0.5] * 4  # of three seeds of each sentence, some did not end
    found, free = mean_interval(shares, bounds=(0, 1)), mean_interval(shares)
    assert found.high == 1.0 < free.high and found.low == free.low < found.value


def test_speakers_that_are_equal_by_chance_do_not_make_the_figure_certain() -> None:
    errors, words = np.tile([0, 1, 2, 3], 10), np.full(40, 10)
    speaker_of = np.repeat(np.arange(10), 4)
    found = ratio_interval(errors, words, list(speaker_of))
    assert found.low < 0.14 and found.high > 0.16 and "equal groups" in found.method


@pytest.mark.parametrize("sentences", [1, 2, 5, 100])
def test_no_error_at_all_is_no_proof_that_there_is_none(sentences: int) -> None:
    found = ratio_interval(np.zeros(sentences), np.full(sentences, 10))
    assert (found.value, found.low) == (0.0, 0.0) and 0 < found.high < 1
    assert found.high == pytest.approx(stats.norm.ppf(0.975) ** 2 / (sentences + stats.norm.ppf(0.975) ** 2))


@pytest.mark.parametrize(
    "numbers",
    [[3], [1, 1], [2, 2, 2], [0, 5], [0, 0, 0, 9], [4] * 100, [0] * 99 + [7], [1] * 99 + [0], [1, 2, 3], range(40)],
)
def test_every_set_gets_finite_ends_around_its_value(numbers: list[int]) -> None:
    totals = np.full(len(numbers), 10)
    found = [
        ratio_interval(numbers, totals),
        ratio_interval(numbers, totals, ["amal"] * len(numbers)),
        ratio_interval(numbers, totals, [number % 3 for number in range(len(numbers))]),
        mean_interval(numbers),
        median_interval(numbers),
        paired_ratio_difference(numbers, numbers[::-1], totals),
        paired_mean_difference(numbers, [0] * len(numbers)),
    ]
    for interval in found:
        assert np.isfinite([interval.low, interval.high]).all()
        assert interval.low <= interval.value <= interval.high and interval.n == len(numbers)
        json.dumps(asdict(interval), allow_nan=False)
    assert found[0].low >= 0 and found[0].high > found[0].value


def test_the_same_output_of_two_systems_is_no_difference() -> None:
    errors, words = USUAL.draw(np.random.default_rng(8), 50)
    found = paired_ratio_difference(errors, errors, words)
    assert found.value == 0 and not found.excludes_zero and "0 of 50" in found.method


@pytest.mark.parametrize(("changed", "differs"), [(5, False), (6, True)])
def test_six_sentences_must_change_before_systems_differ(changed: int, differs: bool) -> None:
    better = np.where(np.arange(100) < changed, 1, 2)
    assert paired_ratio_difference(np.full(100, 2), better, np.full(100, 10)).excludes_zero is differs


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (100, 100), (97, 100), (0, 64), (32, 64)])
def test_a_share_has_the_ends_of_the_continuity_corrected_wilson_interval(successes: int, n: int) -> None:
    found, z = share_interval(successes, n), stats.norm.ppf(0.975)
    mirrored = share_interval(n - successes, n)
    assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low))
    # An end is the share that lies z standard errors, less half a case, from the one that was seen.
    for end, sign in ((found.low, -1), (found.high, 1)):
        if 0 < end < 1:
            assert abs(successes / n - end) - 0.5 / n == pytest.approx(z * np.sqrt(end * (1 - end) / n))
            assert sign * (end - successes / n) > 0
        else:
            assert end == successes / n


def test_shares_of_two_systems_are_compared_on_the_sentences_on_which_they_disagree() -> None:
    def differs(rng: np.random.Generator, _: int, gain: float) -> bool:
        luck = rng.random(200)
        again = np.where(rng.random(200) < 0.5, luck, rng.random(200))
        return paired_share_difference(luck < 0.85, again < 0.85 + gain).excludes_zero

    assert rate(lambda rng, number: differs(rng, number, 0.0), seed=1) <= 0.07
    assert rate(lambda rng, number: differs(rng, number, 0.1), seed=1) >= 0.9
    same = paired_share_difference([True] * 100, [True] * 100)
    assert same.value == 0 and same.low < 0 < same.high
    assert paired_share_difference([False] * 100, [True] * 100).low > 0.9


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_quantile_has_the_ends_of_the_sign_test(share: float) -> None:
    values = np.random.default_rng(9).lognormal(0, 0.2, 200)
    found = quantile_interval(values, share)
    wanted = stats.quantile_test(values, p=share).confidence_interval(0.95)
    assert (found.low, found.high) == (wanted.low, wanted.high)
    assert found.value == pytest.approx(np.quantile(values, share))


def test_few_sentences_say_that_they_are_too_few_for_a_quantile() -> None:
    values = np.random.default_rng(10).lognormal(0, 0.2, 20)
    found = quantile_interval(values, 0.95)
    assert found.high == values.max() and "too few for one end" in found.method
    assert "too few for either end" in median_interval(values[:3]).method


def test_a_median_with_speakers_is_wider_where_speakers_differ() -> None:
    rng = np.random.default_rng(11)
    speaker_of = np.repeat(np.arange(20), 10)
    values = rng.normal(0, 0.3, 20)[speaker_of] + rng.normal(0, 0.1, 200)
    by_speaker, by_sentence = median_interval(values, list(speaker_of)), median_interval(values)
    assert by_speaker.high - by_speaker.low > 1.5 * (by_sentence.high - by_sentence.low)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ratio_interval([], []), "1 or more"),
        (lambda: ratio_interval([1, 2], [3]), r"\(2,\) and \(1,\)"),
        (lambda: ratio_interval([-1, 2], [3, 3]), "lowest is -1"),
        (lambda: ratio_interval([0, 0], [0, 0]), "the sum not 0"),
        (lambda: ratio_interval([1, 2], [3, 3], ["amal"]), "1 groups for 2 sentences"),
        (lambda: mean_interval([0.5, float("nan")]), "not finite"),
        (lambda: mean_interval([0.5, 1.5], bounds=(-1, 1)), r"between 0.5 and 1.5; the bounds are \(-1, 1\)"),
        (lambda: paired_mean_difference([1.0], [1.0, 2.0]), r"\(2,\) and \(1,\)"),
        (lambda: paired_share_difference([], []), "1 or more"),
        (lambda: share_interval(3, 2), "3 of 2"),
        (lambda: share_interval(0, 0), "at least 1 case"),
        (lambda: quantile_interval([1.0], 1.0), "share is 1"),
    ],
)
def test_numbers_without_an_interval_are_refused(call: Callable[[], Interval], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
