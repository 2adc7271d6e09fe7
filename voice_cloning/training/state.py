"""The state of a run: its step, losses and best evaluation. It is saved in each checkpoint."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from boson_multimodal.whole_files import write_whole
from voice_cloning.training.checkpoints import STATE_FILE, read_state
from voice_cloning.training.losses import LossTotals


@dataclass(frozen=True)
class BestEvaluation:
    """The evaluation with the lowest loss so far.

    Attributes:
        step: optimizer steps before it.
        eval_loss: its loss.
    """

    step: int
    eval_loss: float

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> "BestEvaluation | None":
        """Return the best evaluation in the content of ``trainer_state.json``."""
        best = state["best"]
        # An earlier release could record a loss that is not finite, and then no other one was lower.
        return cls(**best) if best is not None and math.isfinite(best["eval_loss"]) else None


@dataclass
class TrainingState:
    """The state of a run.

    Attributes:
        total_steps: optimizer steps of the whole run.
        totals: loss sums since the last line of metrics.
        step: optimizer steps done.
        best: the best evaluation so far.
        evaluation_due: whether the evaluation of this step has not been completed.
        saved_step: step of the checkpoint that holds this state, or None. A new run has 0, because step 0 needs no
            checkpoint. The file does not hold this value.
    """

    total_steps: int
    totals: LossTotals
    step: int = 0
    best: BestEvaluation | None = None
    evaluation_due: bool = False
    saved_step: int | None = 0

    @classmethod
    def load(cls, checkpoint: Path, total_steps: int) -> "TrainingState":
        """Return the state in a checkpoint. If an evaluation is due, the checkpoint must be written again after it."""
        found = read_state(checkpoint)
        return cls(
            total_steps=total_steps,
            totals=LossTotals.from_state(found["totals"]),
            step=found["step"],
            best=BestEvaluation.of_state(found),
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
            "best": self.best and asdict(self.best),
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

    def note_evaluation(self, eval_loss: float | None) -> bool:
        """Record the evaluation of this step. Return whether it is the best so far.

        A loss that is not finite is never the best. It is None if nothing but speech was evaluated.
        """
        self.evaluation_due = False
        if eval_loss is None:
            return False
        if not math.isfinite(eval_loss) or (self.best is not None and not eval_loss < self.best.eval_loss):
            return False
        self.best = BestEvaluation(self.step, eval_loss)
        return True
