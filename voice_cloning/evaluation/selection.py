"""Chooses the best of several checkpoints by what one hears, by one rule.

Checkpoints are taken in the order of their steps. The first one is the best so far. A later one replaces it if the
first of these that is certain says so:

1. the stop rate is higher,
2. the word error rate (normalisation ``scoring``) is lower,
3. the speech is more like the reference's voice (SIM).

A difference is certain if its 95 % interval, of pairs of the same sentence and seed, has no 0 in it. If none is, the
lower word error rate decides as it was measured; without a recogniser, the lower evaluation loss.

A checkpoint that has forgotten too much is out: on the retention set, its error rate is certainly more than
``--retention_bound`` above the base's (without a recogniser: its stop rate is certainly so far below).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from voice_cloning.evaluation.intervals import paired_ratio_difference, paired_share_difference
from voice_cloning.training.evaluation_config import BY_LOSS
from voice_cloning.training.state import EvaluationResult, has_lower_loss

RULES = {"stop_rate": 1, "wer_scoring": -1, "sim_reference": 1}
"""The figures that decide, in this order, and the sign of a difference that is an improvement."""
EVALUATION_FIGURES = {"stop_rate": "stop rate", "wer_scoring": "word error rate", "eval_loss": "loss"}
"""What decides between evaluations of a run, in words."""
RETENTION_BOUND = 0.1
"""The default of ``--retention_bound``, in shares of words."""


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate is better than the best one so far.

    Attributes:
        is_better: whether it replaces it.
        rule: the figure that decided; ``eval_loss``; or ``none`` if nothing speaks for the candidate.
        difference: candidate minus best, of this figure; None where there is no interval.
    """

    is_better: bool
    rule: str
    difference: dict[str, Any] | None = None


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to choose.

    Attributes:
        name: its name.
        step: optimizer steps.
        eval_loss: of this step; None if it is not known.
        figures: value of each figure by name.
        forgotten: why it is out by its retention; None if it is not.
    """

    name: str
    step: int
    eval_loss: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    forgotten: str | None = None


def decisive(differences: Mapping[str, Mapping[str, Any]]) -> Verdict | None:
    """Return the verdict of the first rule whose difference (candidate minus best) is certain, or None."""
    for name, sign in RULES.items():
        found = differences.get(name)
        if found is not None and (found["low"] > 0 or found["high"] < 0):
            return Verdict(sign * found["value"] > 0, name, dict(found))
    return None


def better(candidate: Candidate, best: Candidate, differences: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """Compare two checkpoints.

    Args:
        differences: candidate minus best, by figure, each with ``value``, ``low``, ``high``.
    """
    if verdict := decisive(differences):
        return verdict
    wer = [found.figures.get("wer_scoring") for found in (candidate, best)]
    if None not in wer and wer[0] != wer[1]:
        return Verdict(wer[0] < wer[1], "wer_scoring, not certain", dict(differences["wer_scoring"]))
    losses = [found.eval_loss for found in (candidate, best)]
    if None in losses or losses[0] == losses[1]:
        return Verdict(False, "none")
    return Verdict(losses[0] < losses[1], "eval_loss")


def choose(
    candidates: Sequence[Candidate], differences: Callable[[str, str], Mapping[str, Mapping[str, Any]]]
) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the name of the best candidate, and every comparison that was made, for JSON.

    Args:
        candidates: the checkpoints, in any order.
        differences: returns the differences of :func:`better` for the names of the best one so far and of a candidate.

    Returns:
        None as the name if every candidate is out.
    """
    best: Candidate | None = None
    told: list[dict[str, Any]] = []
    for candidate in sorted(candidates, key=lambda found: found.step):
        if candidate.forgotten is not None:
            told.append({"candidate": candidate.name, "is_better": False, "rule": f"retention: {candidate.forgotten}"})
        elif best is None:
            best = candidate
            told.append({"candidate": candidate.name, "is_better": True, "rule": "the first"})
        else:
            verdict = better(candidate, best, differences(best.name, candidate.name))
            told.append({"candidate": candidate.name, "compared_with": best.name, **asdict(verdict)})
            best = candidate if verdict.is_better else best
    return best and best.name, told


def forgotten(differences: Mapping[str, Mapping[str, Any]], bound: float) -> str | None:
    """Return why a system has forgotten too much, from its differences to the base on a retention set, or None.

    Args:
        differences: the system minus the base.
        bound: the rise of the word error rate (without a recogniser: the fall of the stop rate) that is allowed.
    """
    name, sign = ("wer_scoring", 1) if "wer_scoring" in differences else ("stop_rate", -1)
    found = differences.get(name)
    if found is None or min(sign * found["low"], sign * found["high"]) <= bound:
        return None
    return f"{name} changed by {found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}) against the base"


# -- the same rule at the evaluations of a training run ----------------------------------------------------------------


def is_better_evaluation(
    keep_best_by: str, tell: Callable[[str], None] | None = None
) -> Callable[[EvaluationResult, EvaluationResult], bool]:
    """Return the rule of ``--keep_best_by``: whether a candidate is better than the best evaluation so far.

    The stop rate decides first, then (for ``wer``) the word error rate, each if its difference is certain; else the
    loss. What cannot be compared is left out: an evaluation without speech, or of other samples; and the word error
    rates of different recognisers.

    Args:
        keep_best_by: the value of the flag.
        tell: is given one line for each comparison, unless the loss alone decides by this flag: what differs, what is
            left out and why, and what decides.
    """

    def is_better(candidate: EvaluationResult, best: EvaluationResult) -> bool:
        differences, left_out = _comparable(keep_best_by, candidate, best)
        verdict = decisive(differences) or Verdict(has_lower_loss(candidate, best), "eval_loss")
        if tell is not None and keep_best_by != BY_LOSS:
            tell(_comparison_line(candidate, best, differences, left_out, verdict))
        return verdict.is_better

    return is_better


def _comparable(
    keep_best_by: str, candidate: EvaluationResult, best: EvaluationResult
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the differences, candidate minus best, of the figures that can be compared; and why others cannot be."""
    found: dict[str, dict[str, Any]] = {}
    if keep_best_by == BY_LOSS:
        return found, []
    silent = [f"step {result.step} has no spoken samples" for result in (best, candidate) if not result.ended]
    if silent:
        return found, silent
    if len(best.ended) != len(candidate.ended):
        numbers = [f"step {result.step} has {len(result.ended)}" for result in (best, candidate)]
        return found, [f"the scored samples are others ({', '.join(numbers)})"]
    found["stop_rate"] = asdict(paired_share_difference(best.ended, candidate.ended))
    if keep_best_by == "stop_rate":
        return found, []
    unheard = [f"step {result.step} was heard by no recogniser" for result in (best, candidate) if not result.words]
    if unheard:
        return found, unheard
    if best.recogniser != candidate.recogniser:
        names = [f"{result.recogniser or 'one without a name'} at step {result.step}" for result in (best, candidate)]
        return found, [f"the recognisers differ ({', '.join(names)})"]
    if best.words != candidate.words or not sum(best.words):
        return found, ["the words of the scored samples are others, or there are none"]
    errors = best.word_errors, candidate.word_errors
    found["wer_scoring"] = asdict(paired_ratio_difference(*errors, best.words))
    return found, []


def _comparison_line(
    candidate: EvaluationResult,
    best: EvaluationResult,
    differences: Mapping[str, Mapping[str, Any]],
    left_out: Sequence[str],
    verdict: Verdict,
) -> str:
    """Return one line: what differs between two evaluations, what cannot be compared, and what decides."""
    parts = [
        f"{EVALUATION_FIGURES[name]} {100 * found['value']:+.1f} points ({100 * found['low']:+.1f} to "
        f"{100 * found['high']:+.1f})"
        for name, found in differences.items()
    ]
    if left_out:
        parts.append(f"{'words' if differences else 'speech'} cannot be compared: {'; '.join(left_out)}")
    if verdict.rule == "eval_loss":
        parts.append(f"loss {best.eval_loss:.4f} to {candidate.eval_loss:.4f}")
    rule = EVALUATION_FIGURES[verdict.rule]
    reason = "its interval has no 0 in it" if verdict.difference else "nothing before it is certain"
    outcome = f"step {candidate.step} is the best now" if verdict.is_better else f"step {best.step} stays the best"
    return (
        f"step {candidate.step} against step {best.step}, the best so far: {', '.join(parts)}. The {rule} decides "
        f"({reason}): {outcome}"
    )
