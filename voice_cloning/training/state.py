"""The state of a run: its step, losses and best evaluation. It is saved in each checkpoint."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from boson_multimodal.whole_files import write_whole
from voice_cloning.training.checkpoints import ENDED_EARLY, STATE_FILE, WAITED, read_state
from voice_cloning.training.division import Division
from voice_cloning.training.losses import LossTotals


@dataclass(frozen=True)
class EvaluationResult:
    """What decides whether the checkpoint of an evaluation is the best.

    Attributes:
        step: optimizer steps before it.
        eval_loss: its loss.
        ended: for each scored sample, in the order of the samples, whether the model ended it by itself. Empty if
            nothing was spoken.
        word_errors, words: of each scored sample, as a recogniser heard it. Empty without a recogniser.
        recogniser: its name; an empty text without one.
    """

    step: int
    eval_loss: float
    ended: tuple[bool, ...] = ()
    word_errors: tuple[int, ...] = ()
    words: tuple[int, ...] = ()
    recogniser: str = ""

    @classmethod
    def best_of_state(cls, state: dict[str, Any]) -> "EvaluationResult | None":
        """Return the best evaluation in the content of ``trainer_state.json``."""
        best = state["best"]
        # An earlier release could record a loss that is not finite, and then no other one was lower.
        if best is None or not math.isfinite(best["eval_loss"]):
            return None
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in best.items()})

    def for_json(self) -> dict[str, Any]:
        """Return the fields that are not empty."""
        return {name: value for name, value in asdict(self).items() if value not in ((), "")}


def is_over(found: dict[str, Any], patience: int | None) -> bool:
    """Return whether a run whose checkpoint holds this state has nothing left to do.

    A run that ``patience`` ended goes on if there is more of it now.
    """
    has_patience = patience is None or patience > found.get(WAITED, 0)
    return found["finished"] and not (found.get(ENDED_EARLY, False) and has_patience)


def has_lower_loss(candidate: EvaluationResult, best: EvaluationResult) -> bool:
    """Return whether an evaluation has a lower loss than the best one so far."""
    return candidate.eval_loss < best.eval_loss


@dataclass
class TrainingState:
    """The state of a run.

    Attributes:
        total_steps: optimizer steps of the whole run.
        totals: loss sums since the last line of metrics.
        division: how micro-batches are divided into steps and among processes.
        step: optimizer steps done.
        best: the best evaluation so far.
        evaluations_without_better: evaluations since the best one.
        evaluation_due: whether the evaluation of this step has not been completed.
        ended_early: whether ``patience`` has ended the run before its planned last step.
        saved_step: step of the checkpoint that holds this state, or None. A new run has 0, because step 0 needs no
            checkpoint. The file does not hold this value.
    """

    total_steps: int
    totals: LossTotals
    division: Division = field(default_factory=Division)
    step: int = 0
    best: EvaluationResult | None = None
    evaluations_without_better: int = 0
    evaluation_due: bool = False
    ended_early: bool = False
    saved_step: int | None = 0

    @classmethod
    def load(cls, checkpoint: Path, total_steps: int, division: Division | None = None) -> "TrainingState":
        """Return the state in a checkpoint (see :meth:`of_content`)."""
        return cls.of_content(read_state(checkpoint), total_steps, division)

    @classmethod
    def of_content(cls, found: dict[str, Any], total_steps: int, division: Division | None = None) -> "TrainingState":
        """Return the state in the ``trainer_state.json`` of a checkpoint.

        If an evaluation is due, the checkpoint must be written again after it.
        """
        return cls(
            total_steps=total_steps,
            totals=LossTotals.from_state(found["totals"]),
            division=division or Division(),
            step=found["step"],
            best=EvaluationResult.best_of_state(found),
            evaluations_without_better=found.get(WAITED, 0),  # earlier releases did not count them
            evaluation_due=found["evaluation_due"],
            saved_step=None if found["evaluation_due"] else found["step"],
        )

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint's folder."""
        content = {
            "step": self.step,
            "total_steps": self.total_steps,
            "finished": self.is_finished,
            "evaluation_due": self.evaluation_due,
            "best": self.best and self.best.for_json(),
            WAITED: self.evaluations_without_better,
            **({ENDED_EARLY: True} if self.ended_early else {}),
            **self.division.for_state(),
            "totals": self.totals.state(),
        }
        write_whole(folder / STATE_FILE, (json.dumps(content, indent=1) + "\n").encode("utf-8"))

    @property
    def is_last_step(self) -> bool:
        """Whether all optimizer steps are done."""
        return self.step == self.total_steps

    @property
    def is_finished(self) -> bool:
        """Whether all optimizer steps and the last evaluation are done."""
        return self.is_last_step and not self.evaluation_due

    def note_evaluation(
        self,
        result: EvaluationResult | None,
        is_better: Callable[[EvaluationResult, EvaluationResult], bool] = has_lower_loss,
        patience: int | None = None,
    ) -> bool:
        """Record the evaluation of this step. Return whether it is the best so far.

        A loss that is not finite is never the best. After ``patience`` evaluations without a better one, the run ends
        with this step. The result is None if nothing but speech was evaluated.
        """
        self.evaluation_due = False
        if result is None:
            return False
        is_best = math.isfinite(result.eval_loss) and (self.best is None or is_better(result, self.best))
        if is_best:
            self.best = result
        self.evaluations_without_better = 0 if is_best else self.evaluations_without_better + 1
        if patience is not None and self.evaluations_without_better >= patience and not self.is_last_step:
            self.total_steps, self.ended_early = self.step, True
        return is_best
