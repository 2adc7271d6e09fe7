"""Prints the tables of docs/intervals.md: coverage and power on simulated sets whose truth is known.

python -m tests.voice_cloning.evaluation.interval_tables    # a few minutes on one core
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from tests.voice_cloning.evaluation.simulated_sets import SETS, WordErrorModel, draw_of_speakers, draw_pair_of_speakers
from voice_cloning.evaluation.intervals import (
    RESAMPLES,
    Interval,
    mean_interval,
    paired_ratio_difference,
    paired_share_difference,
    quantile_interval,
    ratio_interval,
    share_interval,
)

ALIKE = 0.7
"""The share of sentences that are equally hard for both systems of a pair."""


def measure(interval: Callable[[np.random.Generator, int], Interval], truth: float) -> tuple[float, float, float]:
    """Return how many percent of simulated sets cover the truth and exclude 0, and the median width in points."""
    rng = np.random.default_rng(1)
    found = [interval(rng, number // 100) for number in range(SETS)]
    covered = np.mean([i.low <= truth <= i.high for i in found])
    excluded = np.mean([i.excludes_zero for i in found])
    return 100 * covered, 100 * excluded, 100 * float(np.median([i.high - i.low for i in found]))


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{v:.1f}' if isinstance(v, float) else str(v) for v in row)} |", flush=True)


def word_error_rates() -> None:
    models = {
        "0.5 %": WordErrorModel(0.005, spread=3.0),
        "3 %": WordErrorModel(0.03),
        "10 %": WordErrorModel(0.1),
        "20 %": WordErrorModel(0.2),
        "60 %": WordErrorModel(0.6),
        "15 % and runaways in 3 % of the sentences": WordErrorModel(0.15, runaways=0.03),
    }
    rows = []
    for name, model in models.items():
        row: list[object] = [name]
        for n in (20, 50, 100, 200):
            covered, _, width = measure(
                lambda rng, s, m=model, n=n: ratio_interval(*m.draw(rng, n), seed=s), model.true_rate
            )
            row.append(f"{covered:.1f} ({width:.1f})")
        rows.append(row)
    head = ["true WER", *(f"{n} sentences" for n in (20, 50, 100, 200))]
    table("Coverage of the WER, % (median width, points)", head, rows)


def exact_share_coverage(clips: int, shares: np.ndarray) -> np.ndarray:
    """Return the exact coverage of true shares, from the binomial distribution."""
    found = [share_interval(x, clips) for x in range(clips + 1)]
    low, high = (np.array([getattr(i, end) for i in found])[:, None] for end in ("low", "high"))
    inside = (low - 1e-12 <= shares) & (shares <= high + 1e-12)
    return 100 * (stats.binom.pmf(np.arange(clips + 1)[:, None], clips, shares) * inside).sum(0)


def shares() -> None:
    named = np.array([0.7, 0.9, 0.95, 0.98, 0.99, 1.0])
    rows = [
        [clips, *map(float, exact_share_coverage(clips, named)),
         float(exact_share_coverage(clips, np.linspace(0.5, 0.9999, 1000)).min())]
        for clips in (32, 64, 100, 200)
    ]  # fmt: skip
    table("Exact coverage of a share, %", ["clips", *(f"{s:g}" for s in named), "lowest of 1,000 shares"], rows)


def pairs() -> None:
    rows = []
    for mean in (0.03, 0.1, 0.15, 0.3):
        model = WordErrorModel(mean)
        for n in (100, 200):
            row: list[object] = [f"{100 * mean:g} %", n]
            for better_by in (0.0, 0.03, 0.06):
                if better_by >= mean:
                    row.append("")
                    continue
                called = measure(
                    lambda rng, s, b=better_by, m=model, n=n: paired_ratio_difference(
                        *m.draw_pair(rng, n, b, ALIKE), seed=s
                    ),
                    -better_by,
                )[1]
                row.append(called)
            a, b, words = model.draw_pair(np.random.default_rng(0), 100_000, 0.0, ALIKE)
            rows.append([*row, f"{np.std((b - a) / words):.2f}"])
    head = ["WER of a", "sentences", "equal", "b better by 3 points", "by 6 points", "spread per sentence (equal)"]
    table("Pairs of systems called different, %", head, rows)


def speakers() -> None:
    rows = []
    for count in (2, 3, 5, 8, 10, 20, 40):
        each = 200 // count

        def one(rng: np.random.Generator, s: int, grouped: bool, count: int = count, each: int = each) -> Interval:
            errors, words, speaker_of = draw_of_speakers(rng, count, each, mean=0.25, spread=20.0)
            return ratio_interval(errors, words, speaker_of if grouped else None, s)

        def two(rng: np.random.Generator, s: int, by: float, count: int = count, each: int = each) -> Interval:
            *drawn, speaker_of = draw_pair_of_speakers(rng, count, each, 0.2, by, ALIKE)
            return paired_ratio_difference(*drawn, speaker_of, s)

        by_speaker, _, width = measure(lambda rng, s, one=one: one(rng, s, True), 0.25)
        by_sentence, _, narrow = measure(lambda rng, s, one=one: one(rng, s, False), 0.25)
        called = [measure(lambda rng, s, two=two, by=by: two(rng, s, by), -by)[1] for by in (0.0, 0.06)]
        rows.append([count, f"{by_speaker:.1f} ({width:.1f})", f"{by_sentence:.1f} ({narrow:.1f})", *called])
    head = ["speakers of 200 sentences", "coverage (width) by speaker", "by sentence", "equal pairs called different"]
    table("With speakers that differ, %", [*head, "6 points found"], rows)


def others() -> None:
    rows: list[list[object]] = []
    for n in (30, 64, 200):
        row: list[object] = [n]
        for share in (0.5, 0.05, 0.95):
            truth = float(np.exp(0.2 * stats.norm.ppf(share)))
            row.append(
                measure(lambda rng, _, q=share, n=n: quantile_interval(np.exp(0.2 * rng.normal(size=n)), q), truth)[0]
            )
        row.append(measure(lambda rng, s, n=n: mean_interval(rng.beta(8, 2, n), seed=s), 0.8)[0])
        for first, second in ((0.9, 0.9), (0.97, 0.97), (0.85, 0.95)):
            row.append(measure(lambda rng, _, p=first, q=second, n=n: stop_pair(rng, n, p, q), second - first)[1])
        rows.append(row)
    head = ["sentences", "median", "5th percentile", "95th", "SIM", "stop rates of 0.90 called different"]
    table("Coverage, %, and pairs of stop rates called different, %", [*head, "of 0.97", "0.85 and 0.95 found"], rows)


def stop_pair(rng: np.random.Generator, n: int, first: float, second: float) -> Interval:
    """Two systems that end the same clips, in half of the cases."""
    luck = rng.random(n)
    again = np.where(rng.random(n) < 0.5, luck, rng.random(n))
    return paired_share_difference(luck < first, again < second)


def bca(errors: np.ndarray, words: np.ndarray, seed: int) -> Interval:
    """Return scipy's BCa interval of a ratio of sums over independent units."""
    value = errors.sum() / words.sum()
    if np.unique(errors).size == 1:  # scipy has no interval for it
        return Interval(value, value, value, errors.size, "bca")
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = stats.bootstrap(
            (errors, words),
            lambda e, w, axis: e.sum(axis) / w.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Interval(value, float(ends.low), float(ends.high), errors.size, "bca")


def against_bca() -> None:
    few, usual = WordErrorModel(0.03), WordErrorModel(0.2)

    def of_speakers(rng: np.random.Generator, seed: int) -> Interval:
        errors, words, speaker_of = draw_of_speakers(rng, 5, 40, mean=0.25, spread=20.0)
        return bca(np.bincount(speaker_of, errors), np.bincount(speaker_of, words), seed)

    def of_pair(rng: np.random.Generator, seed: int, n: int) -> Interval:
        a, b, words = few.draw_pair(rng, n, 0.0, ALIKE)
        return bca(b - a, words, seed)

    rows = [
        [f"coverage, WER {100 * model.mean:g} %, {n} sentences",
         measure(lambda rng, s, m=model, n=n: bca(*m.draw(rng, n), s), model.mean)[0]]
        for model, n in ((few, 30), (few, 100), (usual, 30), (usual, 100))
    ]  # fmt: skip
    rows.append(["coverage, 5 speakers of 40 sentences", measure(of_speakers, 0.25)[0]])
    for n in (100, 200):
        called = measure(lambda rng, s, n=n: of_pair(rng, s, n), 0.0)[1]
        rows.append([f"equal systems called different, WER 3 %, {n} sentences", called])
    table("BCa of scipy instead, %", ["what", "share of the sets"], rows)


if __name__ == "__main__":
    word_error_rates()
    shares()
    pairs()
    speakers()
    others()
    against_bca()
