"""Which of two checkpoints is the better one, by what is heard. Pure functions of results by clip.

The rules, in this order:

1. Retention: a checkpoint that has forgotten too much is out. Its word error rate on what the base could do before has
   risen by more than ``max_forgetting``, and the whole interval of the rise lies above that.
2. Stop rate: the share of clips that end by themselves, higher is better.
3. Word error rate, lower is better.
4. Similarity to the reference's voice, higher is better.
5. Evaluation loss, lower is better.

Rules 2 to 4 compare the same clips of both. A rule decides if the paired interval of 95 % of the difference excludes 0;
otherwise the next one is asked. A rule whose figure was not measured for both is passed over. The loss has no interval,
and with equal losses the older checkpoint stays.

Of many checkpoints, each in the order of its steps is compared with the best so far. Each rule calls equal checkpoints
different in up to 5 % of comparisons, so among many checkpoints a small gain can be luck (``docs/intervals.md``).
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from boson_multimodal.errors import InputError
from voice_cloning.evaluation.intervals import (
    Interval,
    paired_mean_difference,
    paired_ratio_difference,
    paired_share_difference,
)

MAX_FORGETTING = 0.05
RULES_OF = {
    "loss": (),
    "stop_rate": ("stop_rate",),
    "wer": ("stop_rate", "wer", "similarity"),
}
"""What decides -> the rules that are asked before the loss."""
FIRST, RETENTION, LOSS, NOTHING = "first", "retention", "loss", "nothing"


@dataclass(frozen=True, kw_only=True)
class CheckpointResult:
    """What is known of a checkpoint. Every mapping has a clip as its key, any value that both checkpoints share.

    Attributes:
        name: of the checkpoint, for messages.
        ended: whether the model ended the clip by itself.
        word_errors, words: as a recogniser heard it; empty without a recogniser.
        similarity: cosine of the voice to that of the reference; empty if it was not measured.
        units: what is sampled: the speaker of a clip, or its sentence if there are several seeds; empty makes each clip
            a unit.
        evaluation_loss: None if it is not known; one that is not finite is worse than any other.
        forgetting: the rise of the word error rate over the base's on the retention set (``paired_ratio_difference``);
            None without such a set.
    """

    name: str
    ended: Mapping[Hashable, bool] = field(default_factory=dict)
    word_errors: Mapping[Hashable, float] = field(default_factory=dict)
    words: Mapping[Hashable, float] = field(default_factory=dict)
    similarity: Mapping[Hashable, float] = field(default_factory=dict)
    units: Mapping[Hashable, Hashable] = field(default_factory=dict)
    evaluation_loss: float | None = None
    forgetting: Interval | None = None

    @classmethod
    def of_report(
        cls,
        report: Mapping[str, Any],
        system: str,
        *,
        normalisation: str = "scoring",
        evaluation_loss: float | None = None,
        forgetting: Interval | None = None,
    ) -> "CheckpointResult":
        """Return the result of a system in the content of ``report.json``.

        Figures that a clip lacks are left out. Speakers are the units where the speaker of each sentence is known,
        else sentences.

        Raises:
            InputError: if the report has no clip of the system.
        """
        items = [item for item in report["items"] if item["clips"].get(system)]
        if not items:
            raise InputError(f"{system}: the report has no clip of it; it has {[s['name'] for s in report['systems']]}")
        clips = {(item["id"], clip["seed"]): clip for item in items for clip in item["clips"][system]}
        speakers = {item["id"]: item["speaker"] for item in items}
        by_speaker = None not in speakers.values()
        errors = {key: clip["errors"][normalisation] for key, clip in clips.items() if normalisation in clip["errors"]}
        return cls(
            name=system,
            ended={key: clip["ended"] for key, clip in clips.items() if clip["ended"] is not None},
            word_errors={key: counts["word_errors"] for key, counts in errors.items()},
            words={key: counts["words"] for key, counts in errors.items()},
            similarity={k: clip["sim_reference"] for k, clip in clips.items() if clip["sim_reference"] is not None},
            units={(item, seed): speakers[item] if by_speaker else item for item, seed in clips},
            evaluation_loss=evaluation_loss,
            forgetting=forgetting,
        )


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison.

    Attributes:
        is_better: whether the candidate takes the place of the best one.
        rule: the rule that decided: ``retention``, ``stop_rate``, ``wer``, ``similarity`` or ``loss``; ``first`` if
            there was no best one, ``nothing`` if no rule could decide.
        difference: candidate minus best, where a rule with an interval decided; for ``retention`` the forgetting.
    """

    is_better: bool
    rule: str
    difference: Interval | None = None

    def __str__(self) -> str:
        outcome = "better" if self.is_better else "not better"
        if self.difference is None:
            return f"{outcome} by {self.rule}"
        d = self.difference
        return f"{outcome} by {self.rule}: {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}, {d.n} clips)"


@dataclass(frozen=True)
class Selection:
    """The choice among checkpoints.

    Attributes:
        best: name of the best one; None if all have forgotten too much.
        comparisons: (candidate, best before it or None, verdict) in order.
    """

    best: str | None
    comparisons: tuple[tuple[str, str | None, Verdict], ...]


def better(
    candidate: CheckpointResult,
    best: CheckpointResult | None,
    by: str = "wer",
    max_forgetting: float = MAX_FORGETTING,
    seed: int = 0,
) -> Verdict:
    """Return whether a candidate takes the place of the best checkpoint so far, and which rule decided.

    Args:
        candidate, best: their results; no best one means that the candidate is the first.
        by: which rules are asked before the loss (``RULES_OF``).
        max_forgetting: see the module.
        seed: of the resamples.

    Raises:
        InputError: if ``by`` is unknown, or clips have other numbers of words in the two results.
    """
    if by not in RULES_OF:
        raise InputError(f"by is {by!r}; it must be one of {list(RULES_OF)}")
    if _has_forgotten(candidate, max_forgetting):
        return Verdict(False, RETENTION, candidate.forgetting)
    if best is None:
        return Verdict(True, FIRST)
    if _has_forgotten(best, max_forgetting):
        return Verdict(True, RETENTION, best.forgetting)
    for rule in RULES_OF[by]:
        difference = _DIFFERENCES[rule](best, candidate, seed)
        if difference is not None and difference.excludes_zero:
            return Verdict((difference.value < 0) == (rule == "wer"), rule, difference)
    losses = [result.evaluation_loss for result in (candidate, best)]
    if None in losses:
        return Verdict(False, NOTHING)
    ours, theirs = (loss if math.isfinite(loss) else math.inf for loss in losses)
    return Verdict(ours < theirs, LOSS)


def select(
    results: Sequence[CheckpointResult], by: str = "wer", max_forgetting: float = MAX_FORGETTING, seed: int = 0
) -> Selection:
    """Return the best of several checkpoints, given in the order of their steps, with every comparison.

    Raises:
        InputError: as :func:`better` does.
    """
    best: CheckpointResult | None = None
    comparisons = []
    for candidate in results:
        verdict = better(candidate, best, by, max_forgetting, seed)
        comparisons.append((candidate.name, best and best.name, verdict))
        best = candidate if verdict.is_better else best
    return Selection(best and best.name, tuple(comparisons))


def _has_forgotten(result: CheckpointResult, most: float) -> bool:
    return result.forgetting is not None and result.forgetting.low > most


def _shared(best: Mapping[Hashable, object], candidate: Mapping[Hashable, object]) -> list[Hashable]:
    return [clip for clip in best if clip in candidate]


def _units(best: CheckpointResult, clips: Sequence[Hashable]) -> list[Hashable] | None:
    """Return what is sampled; a clip whose unit is not known is its own. None if each clip is."""
    units = [best.units.get(clip, ("clip", clip)) for clip in clips]
    return units if len(set(units)) < len(units) else None


def _stop_rates(best: CheckpointResult, candidate: CheckpointResult, seed: int) -> Interval | None:
    clips = _shared(best.ended, candidate.ended)
    a, b = ([bool(result.ended[clip]) for clip in clips] for result in (best, candidate))
    if not clips:
        return None
    units = _units(best, clips)
    return paired_share_difference(a, b) if units is None else paired_mean_difference(a, b, units, seed)


def _word_error_rates(best: CheckpointResult, candidate: CheckpointResult, seed: int) -> Interval | None:
    clips = _shared(best.word_errors, candidate.word_errors)
    if other := [clip for clip in clips if best.words[clip] != candidate.words[clip]]:
        raise InputError(
            f"{candidate.name}: {candidate.words[other[0]]:g} words in clip {other[0]}, where {best.name} has "
            f"{best.words[other[0]]:g}; both must be scored on the same texts"
        )
    words = [best.words[clip] for clip in clips]
    if not sum(words):
        return None
    a, b = ([result.word_errors[clip] for clip in clips] for result in (best, candidate))
    return paired_ratio_difference(a, b, words, _units(best, clips), seed)


def _similarities(best: CheckpointResult, candidate: CheckpointResult, seed: int) -> Interval | None:
    clips = _shared(best.similarity, candidate.similarity)
    a, b = ([result.similarity[clip] for clip in clips] for result in (best, candidate))
    return paired_mean_difference(a, b, _units(best, clips), seed) if clips else None


_DIFFERENCES: dict[str, Callable[[CheckpointResult, CheckpointResult, int], Interval | None]] = {
    "stop_rate": _stop_rates,
    "wer": _word_error_rates,
    "similarity": _similarities,
}
