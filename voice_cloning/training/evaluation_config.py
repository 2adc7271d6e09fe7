"""The flags of the evaluations of a run: data, speech, and which evaluation is the best one."""

from dataclasses import dataclass
from functools import partial

from boson_multimodal.flags import flag

BY_LOSS = "loss"
KEPT_BY = (BY_LOSS, "stop_rate", "wer")
"""What may decide which evaluation is the best one."""
FEWEST_SCORED = 32
"""Fewer scored samples say too little about a stop rate or a word error rate to choose a checkpoint by it."""

_housekeeping = partial(flag, in_identity=False, card="private")
"""A flag that does not affect the weights of a run."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """Settings of evaluations. Each attribute is a flag of the same name, explained in its help text."""

    eval_data_path: str | None = flag(
        None,
        "ChatML samples to evaluate on, of other speakers than data_path; or a folder of tools.prepare_data pack.",
        in_identity=False,
        per_machine=True,
    )
    eval_steps: int = _housekeeping(200, "Optimizer steps between evaluations; there is always one at the end.")
    sample_every: int | None = _housekeeping(
        None,
        "Speak evaluation samples at each step that is a multiple of this number, and at the last one. By default they "
        "are spoken at every evaluation. Speech is left out while it has taken more than 10 minutes and more than 10 % "
        "of the time, unless keep_best_by needs it.",
        before=None,
    )
    num_scored_samples: int = _housekeeping(
        64,
        "Number of samples of eval_data_path that are spoken from their prompts, as codes, for the figures of speech. "
        "They are spread over the speakers and are the same each time. Fewer cost less; 0 turns speech off. The "
        "weights do not depend on it.",
        before=0,
    )
    num_samples: int = _housekeeping(
        4, "So many of these samples also go through the codec into the folder samples, to be listened to.", before=4
    )
    keep_best_by: str = _housekeeping(
        BY_LOSS,
        "Which evaluation is the best one, whose checkpoint is kept: the one with the lowest loss; or by stop_rate or "
        "wer, from the scored samples: where the difference to the best one so far is certain (its 95 % interval has "
        "no 0 in it), the stop rate decides, then the word error rate (with asr), else the loss.",
        KEPT_BY,
        before=BY_LOSS,
    )
    patience: int | None = _housekeeping(
        None,
        "End the run after this many evaluations without a better one; by default it goes to its end.",
        before=None,
    )
    asr: str | None = _housekeeping(
        None,
        "Folder or hub id of a speech recogniser that knows Arabic (transformers or faster-whisper). It writes down "
        "the scored samples of each evaluation, which gives their word error rate.",
        before=None,
    )
    asr_revision: str | None = _housekeeping(None, "Commit of asr, if it is a hub id.", before=None)

    def problems_of_evaluation(self) -> list[str]:
        """Return what is wrong with these flags."""
        problems = []
        for name in ("eval_steps", "sample_every", "patience"):
            problems += self.below(name, 1)
        for name in ("num_scored_samples", "num_samples"):
            problems += self.below(name, 0)
        if self.keep_best_by not in KEPT_BY:
            problems.append(f"keep_best_by is {self.keep_best_by!r}; it must be one of {list(KEPT_BY)}")
        return problems + self._speech_problems() + self._choice_of_best_problems()

    @property
    def speaks(self) -> bool:
        """Whether evaluation samples are spoken during training."""
        return self.eval_data_path is not None and self.num_scored_samples > 0

    def speaks_at(self, step: int, is_last: bool) -> bool:
        """Return whether evaluation samples are spoken after a step."""
        return self.speaks and (is_last or step % (self.sample_every or self.eval_steps) == 0)

    def evaluates_at(self, step: int, is_last: bool) -> bool:
        """Return whether the evaluation loss is computed after a step."""
        return self.eval_data_path is not None and (is_last or step % self.eval_steps == 0)

    def _speech_problems(self) -> list[str]:
        """Return the flags of speech that ask for something without the data for it."""
        if self.eval_data_path is not None:
            return []
        asked = {name: getattr(self, name) for name in ("sample_every", "num_scored_samples", "num_samples")}
        return [
            f"{name} is {value}, and eval_data_path is not given; the samples that are spoken are those of it"
            for name, value in asked.items()
            if value and value != type(self).__dataclass_fields__[name].default
        ]

    def _choice_of_best_problems(self) -> list[str]:
        """Return what is wrong with the flags that choose the best evaluation."""
        problems = []
        if self.eval_data_path is None:
            given = {"keep_best_by": self.keep_best_by != BY_LOSS, "patience": self.patience, "asr": self.asr}
            problems += [f"{name} needs evaluations; give eval_data_path" for name, is_on in given.items() if is_on]
        if self.keep_best_by != BY_LOSS and self.num_scored_samples < FEWEST_SCORED:
            problems.append(
                f"keep_best_by is {self.keep_best_by}, and num_scored_samples is {self.num_scored_samples}; fewer than "
                f"{FEWEST_SCORED} samples cannot decide; give more, or keep_best_by {BY_LOSS}"
            )
        every = self.sample_every
        if self.keep_best_by != BY_LOSS and every is not None and every > 0 and self.eval_steps % every != 0:
            problems.append(
                f"keep_best_by is {self.keep_best_by}, and sample_every {every} does not divide eval_steps "
                f"{self.eval_steps}: evaluations without speech cannot be compared; leave sample_every out"
            )
        if self.asr is not None and self.num_scored_samples == 0:
            problems.append("asr hears the scored samples, and num_scored_samples is 0; give a number, or no asr")
        if self.keep_best_by == "wer" and self.asr is None:
            problems.append("keep_best_by is wer, which needs a speech recogniser; give asr")
        return problems

    def below(self, name: str, least: float) -> list[str]:
        """Return a problem if the value of a flag is below the least one."""
        value = getattr(self, name)
        return [f"{name} is {value}; it must be at least {least}"] if value is not None and not value >= least else []
