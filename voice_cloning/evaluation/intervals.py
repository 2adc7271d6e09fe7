"""Stand-in until the part that owns this module is merged: values are right, limits are not."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float
    n: int
    method: str


def _of(value: float, n: int) -> Interval:
    return Interval(value, value, value, n, "stand-in")


def ratio_interval(errors: Sequence[float], totals: Sequence[float], groups=None, seed: int = 0) -> Interval:
    return _of(sum(errors) / sum(totals), len(totals))


def mean_interval(values: Sequence[float], groups=None, seed: int = 0) -> Interval:
    return _of(mean(values), len(values))


def median_interval(values: Sequence[float], groups=None) -> Interval:
    return _of(median(values), len(values))


def quantile_interval(values: Sequence[float], share: float, groups=None) -> Interval:
    return _of(sorted(values)[round(share * (len(values) - 1))], len(values))


def share_interval(successes: int, n: int) -> Interval:
    return _of(successes / n, n)


def paired_ratio_difference(a, b, totals, groups=None, seed: int = 0) -> Interval:
    return _of((sum(b) - sum(a)) / sum(totals), len(totals))


def paired_mean_difference(a, b, groups=None, seed: int = 0) -> Interval:
    return _of(mean(b) - mean(a), len(a))


def paired_share_difference(a, b) -> Interval:
    return _of((sum(b) - sum(a)) / len(a), len(a))
