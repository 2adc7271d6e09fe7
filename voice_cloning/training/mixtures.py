"""How many samples of each of several data sets an epoch takes, and whether their weights can be used."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor

from boson_multimodal.errors import raise_if_any

GIVEN_ONCE = "give it once. A larger number in --data_weights makes its samples come more often"
"""What to do with a data set that is given twice."""
MARGIN = 1.01
"""A weight that a message advises is so much larger than the least one, because it is shown with three digits."""


def weight_problems(weights: Sequence[float], paths: Sequence[str]) -> list[str]:
    """Return what is wrong with the values of ``--data_weights`` for the paths of ``--data_path``."""
    problems = []
    if len(weights) != len(paths):
        shown = " ".join(f"{weight:g}" for weight in weights)
        problems.append(
            f"data_weights is {shown}: {_number_of(weights, 'weight')} for {_number_of(paths, 'path')} of data_path; "
            "give one for each path, in the same order"
        )
    names = paths if len(paths) == len(weights) else [str(number) for number in range(1, len(weights) + 1)]
    for name, weight in zip(names, weights, strict=True):
        if not 0.0 < weight < float("inf"):
            advice = "; leave the path out if nothing of it is to be trained on" if weight == 0 else ""
            problems.append(f"data_weights is {weight:g} for path {name}; it must be a finite number above 0{advice}")
    return problems


def samples_of_epoch(paths: Sequence[str], sizes: Sequence[int], weights: Sequence[float]) -> tuple[int, ...]:
    """Return how many samples of each path an epoch takes: together as many as all paths have.

    Each path gets its share, rounded down. What is left goes to the largest remainders, the earlier path first. The
    arithmetic is exact, so weights of another scale give the same numbers.

    Args:
        paths, sizes, weights: the name of each path, the number of its samples, and its weight.

    Raises:
        InputError: listing the paths of which an epoch would take no sample.
    """
    exact, total = [Fraction(repr(float(weight))) for weight in weights], sum(sizes)
    wanted = [weight * total / sum(exact) for weight in exact]
    counts = list(map(floor, wanted))
    by_remainder = sorted(range(len(counts)), key=lambda index: counts[index] - wanted[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    left_out = [index for index, count in enumerate(counts) if count == 0]
    if left_out:
        others = sum(weight for weight, count in zip(exact, counts, strict=True) if count)
        least = MARGIN * float(others / (total - len(left_out)))
        raise_if_any(
            f"--data_weights: an epoch has {total} samples, as many as all paths together, and would take none of a "
            "path",
            [
                f"{paths[index]}: its weight is {weights[index]:g}; give it {least:.3g} or more, or leave the path out"
                for index in left_out
            ],
        )
    return tuple(counts)


def share_words(count: int, size: int, total: int) -> str:
    """Return what an epoch of ``total`` samples takes of a path of ``size`` samples: ``count`` of its samples."""
    times = count / size
    often = f"{times:,.0f}" if times >= 100 else f"{times:.3g}"
    return f"{100 * count / total:.1f} % of an epoch, each sample {often} times"


def _number_of(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
