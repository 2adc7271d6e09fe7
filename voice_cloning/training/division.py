"""How the micro-batches of a run are divided into optimizer steps and among processes, and what a move changes.

A run is moved when it goes on with another number of processes. Micro-batch n of a step belongs to rank n % world size,
and its dropout is seeded by n, not by the rank. So a step of 4 processes and one of 2 processes with 2 micro-batches
each hold the same micro-batches with the same dropout, and differ only in the order in which numbers are added.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError
from boson_multimodal.seeds import seed_of
from voice_cloning.training.batch_planning import StepOrigin, TrainingPlan
from voice_cloning.training.checkpoints import BY_MICRO_BATCH, BY_RANK, DROPOUT_SEEDS, ORIGIN, read_run, read_state
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.epoch_samples import EpochSamples


@dataclass(frozen=True)
class Division:
    """How micro-batches are divided into steps and among processes.

    Attributes:
        world_size: number of processes.
        gradient_accumulation_steps: micro-batches of each process in a step.
        origin: where steps of this size begin.
        dropout_by_rank: whether dropout is seeded by rank and accumulation, as in runs that an earlier release began on
            several processes.
    """

    world_size: int = 1
    gradient_accumulation_steps: int = 1
    origin: StepOrigin = StepOrigin()
    dropout_by_rank: bool = False

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "Division":
        """Return the division that a sound checkpoint was written with."""
        identity, state = read_run(checkpoint)["identity"], read_state(checkpoint)
        world_size = identity["world_size"]
        # On one process both rules give the same seeds, so an earlier release's run follows either of them.
        rule = state.get(DROPOUT_SEEDS, BY_RANK if world_size > 1 else BY_MICRO_BATCH)
        accumulation = identity["flags"]["gradient_accumulation_steps"]
        return cls(world_size, accumulation, StepOrigin(**state.get(ORIGIN, {})), rule == BY_RANK)

    @property
    def per_step(self) -> int:
        """Micro-batches of an optimizer step over all processes."""
        return self.world_size * self.gradient_accumulation_steps

    @property
    def words(self) -> str:
        """The division in words."""
        each = self.gradient_accumulation_steps
        processes = "1 process" if self.world_size == 1 else f"{self.world_size} processes"
        return f"{processes} with {each} micro-batch{'' if each == 1 else 'es'} a step"

    def for_state(self) -> dict[str, Any]:
        """Return what ``trainer_state.json`` records."""
        origin = {} if self.origin == StepOrigin() else {ORIGIN: asdict(self.origin)}
        return {DROPOUT_SEEDS: BY_RANK if self.dropout_by_rank else BY_MICRO_BATCH, **origin}

    def dropout_seed(self, seed: int, epoch: int, step: int, number: int) -> int:
        """Return the seed of a micro-batch's dropout.

        Args:
            seed: of the run.
            epoch, step: of the micro-batch, counted from 0.
            number: of the micro-batch among those of all processes in the step.
        """
        index, rank = divmod(number, self.world_size) if self.dropout_by_rank else (number, 0)
        return seed_of(seed, epoch, step, index, rank)

    def require_movable(self, world_size: int, dropout: float, allowed: bool, step: int) -> None:
        """Check that the run may go on with so many processes.

        Args:
            world_size: number of processes now.
            dropout: ``--lora_dropout``.
            allowed: ``--allow_other_world_size``.
            step: optimizer steps done.

        Raises:
            InputError: if the dropout of the run depends on the number of processes.
        """
        if world_size == self.world_size or not self.dropout_by_rank or not dropout or allowed:
            return
        raise InputError(
            f"world_size: was {self.world_size}, is {world_size}. An earlier release began this run and seeded dropout "
            f"(lora_dropout is {dropout}) by the rank, so on another number of processes the run is not the same one. "
            f"Start {self.world_size} processes, or give --allow_other_world_size: from step {step + 1} on, dropout is "
            "seeded by the number of the micro-batch in the step"
        )

    def lines_about_move(self, was: "Division", total_steps: int) -> list[str]:
        """Return what has changed since the run was divided like ``was``, in words."""
        if (was.world_size, was.gradient_accumulation_steps) == (self.world_size, self.gradient_accumulation_steps):
            return []
        lines = [f"the run goes on with {self.words}; before, it had {was.words}"]
        if was.per_step == self.per_step:
            lines[0] += ". The steps are the same"
        else:
            lines[0] += (
                f". From step {self.origin.step + 1} on, a step has {self.per_step} micro-batches instead of "
                f"{was.per_step}; the run has {total_steps} steps now, and its schedule follows that number"
            )
        if was.dropout_by_rank and not self.dropout_by_rank:
            lines.append("dropout is seeded by the number of the micro-batch in the step from here on, not by the rank")
        return lines

    def moved(self, step: int, samples: EpochSamples, config: DistributedTrainingConfig, world_size: int) -> "Division":
        """Return the division with which a run goes on after ``step`` steps of this one.

        If a step has another number of micro-batches then, it begins with the first micro-batch that is left.
        """
        accumulation = config.gradient_accumulation_steps
        by_rank = self.dropout_by_rank and world_size == self.world_size
        now = Division(world_size, accumulation, self.origin, by_rank)
        if now.per_step == self.per_step:
            return now
        was = replace(config, gradient_accumulation_steps=self.gradient_accumulation_steps)
        return replace(now, origin=TrainingPlan(samples, was, self.world_size, self.origin).origin_at(step))
