"""What is evaluated after a step: the loss on the evaluation data, and speech, each at the steps of its own flag."""

from collections.abc import Callable
from dataclasses import dataclass

from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from voice_cloning.evaluation.training_speech import SpeechResult
from voice_cloning.run.components import TrainingComponents
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.evaluation_config import BY_LOSS
from voice_cloning.training.state import EvaluationResult


@dataclass(frozen=True)
class StepEvaluation:
    """What was found after a step.

    Attributes:
        figures: losses, accuracies and figures of speech, by their names in ``metrics.jsonl``; empty if only speech was
            due and it was left out.
        result: what decides whether the checkpoint is the best one; None if there is no loss.
    """

    figures: dict[str, float]
    result: EvaluationResult | None


def is_evaluation_due(run: TrainingComponents, config: DistributedTrainingConfig) -> bool:
    """Return whether anything is to be evaluated after the step that the run has done."""
    step, is_last = run.state.step, run.state.is_last_step
    return config.evaluates_at(step, is_last) or _speaks(run, config)


def evaluate_step(
    run: TrainingComponents,
    forward: Callable[[HiggsAudioBatchInput], HiggsAudioModelOutput],
    config: DistributedTrainingConfig,
    stop_requested: Callable[[], bool],
) -> StepEvaluation | None:
    """Evaluate the loss and speak, each if it is due. Return None if a process must stop.

    A stop while samples are spoken loses the losses too: a resumed run then repeats both. Speech that has taken too
    much of the time is left out (``TrainingSpeech.is_too_expensive``), unless the best checkpoint is chosen by it.

    Args:
        run: the components of the run; its model is in inference mode.
        forward: one forward pass of the trainer.
        config: says what is evaluated after which step.
        stop_requested: returns whether this process must stop.

    Raises:
        InputError: on every process, if the disk is full or broken.
    """
    state, losses, spoken = run.state, {}, None
    speaks = _speaks(run, config)
    # A run that was resumed with other flags may owe the evaluation of a step that they do not name.
    if config.evaluates_at(state.step, state.is_last_step) or not speaks:
        losses = run.evaluator.evaluate(forward, stop_requested)
        if losses is None:
            return None
    if speaks and not (config.keep_best_by == BY_LOSS and run.speech.is_too_expensive(state.step)):
        spoken = run.speech.speak(run.model.get_base_model(), state.step, stop_requested)
        if spoken is None:
            return None
    return StepEvaluation(losses | (spoken.figures if spoken else {}), _result(state.step, losses, spoken))


def _result(step: int, losses: dict[str, float], spoken: SpeechResult | None) -> EvaluationResult | None:
    if "eval_loss" not in losses:
        return None
    if spoken is None:
        return EvaluationResult(step, losses["eval_loss"])
    return EvaluationResult(
        step,
        losses["eval_loss"],
        ended=spoken.ended,
        word_errors=tuple(found.word_errors for found in spoken.errors),
        words=tuple(found.words for found in spoken.errors),
        recogniser=spoken.recogniser,
    )


def _speaks(run: TrainingComponents, config: DistributedTrainingConfig) -> bool:
    return run.speech is not None and config.speaks_at(run.state.step, run.state.is_last_step)
