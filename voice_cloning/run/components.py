"""The components of a training run, and the functions that create them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file

from boson_multimodal.device_memory import release_cached_memory
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.loss import LossConfig
from boson_multimodal.process_group import Ranks
from boson_multimodal.sample_dataset import SampleDataset
from lora_config import (
    ADAPTER_FILE,
    AdapterForm,
    HiggsAudioLoRATrainingConfig,
    adapter_form,
    enable_checkpointing,
)
from voice_cloning.evaluation.training_speech import TrainingSpeech
from voice_cloning.run.data import RunData
from voice_cloning.run.identity import differences_of_runs, flags_before, run_details, run_identity
from voice_cloning.training.base_kl import BaseKL
from voice_cloning.training.batch_planning import TrainingPlan
from voice_cloning.training.batches import BatchLoader
from voice_cloning.training.checkpoint_writer import CheckpointWriter
from voice_cloning.training.checkpoints import ENDED_EARLY, check_checkpoint, read_state
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.division import Division
from voice_cloning.training.epoch_samples import epoch_samples
from voice_cloning.training.evaluation import Evaluator
from voice_cloning.training.fused_layers import install_fused_layers
from voice_cloning.training.log import ProgressLog
from voice_cloning.training.losses import LossTotals
from voice_cloning.training.metrics import MetricsWriter
from voice_cloning.training.optimizer import AdapterOptimizer
from voice_cloning.training.patient_writer import PatientWriter
from voice_cloning.training.run_directory import RunDirectory
from voice_cloning.training.sample_files import check_place
from voice_cloning.training.state import EvaluationResult, TrainingState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """The device and the weight type of a process.

    Attributes:
        device: one GPU, or the CPU.
        dtype: type of the frozen weights.
    """

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class OpenedDirectory:
    """The output folder of a run as one process sees it; a context manager that closes the folder.

    Attributes:
        directory: the folder on the main process, None on the others.
        checkpoint: the checkpoint that the run resumes from, or None. Only the main process can read it.
        state: the content of its ``trainer_state.json``, or None.
        division: how that checkpoint's run divided its micro-batches; None without one.
    """

    directory: RunDirectory | None
    checkpoint: Path | None
    state: dict[str, Any] | None = None
    division: Division | None = None

    def __enter__(self) -> "OpenedDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.directory is not None:
            self.directory.close()


@dataclass(frozen=True)
class FinishedRun:
    """A run whose steps are all done.

    Attributes:
        opened: its folder and its last checkpoint.
    """

    opened: OpenedDirectory

    @property
    def step(self) -> int:
        """The number of optimizer steps of the run."""
        return self.opened.state["step"]

    @property
    def ended_early(self) -> bool:
        """Whether ``--patience`` ended the run."""
        return self.opened.state.get(ENDED_EARLY, False)

    @property
    def best(self) -> EvaluationResult | None:
        """The best evaluation of the run."""
        return EvaluationResult.best_of_state(self.opened.state)


@dataclass(frozen=True)
class TrainingComponents:
    """Everything that the training loop uses.

    Attributes:
        data: samples, collator, configuration of the model.
        opened: the output folder.
        plan: which samples each step takes.
        warmup_steps: length of the warm-up.
        model: the base model with the adapter.
        optimizer: updates the adapter.
        checkpoints: writes the checkpoints.
        loader: makes the batches of the training data.
        evaluator: evaluates on the evaluation data; None without such data.
        is_better: whether an evaluation is better than the best one so far.
        base_kl: the divergence from the base in the loss; None if its weight is 0.
        speech: speaks evaluation samples; None if the run does not.
        state: the state of the run. The loop changes it.
    """

    data: RunData
    opened: OpenedDirectory
    plan: TrainingPlan
    warmup_steps: int
    model: PeftModel
    optimizer: AdapterOptimizer
    checkpoints: CheckpointWriter
    loader: BatchLoader
    evaluator: Evaluator | None
    base_kl: BaseKL | None
    speech: TrainingSpeech | None
    is_better: Callable[[EvaluationResult, EvaluationResult], bool]
    state: TrainingState

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self.data.model_config.audio_num_codebooks


def open_run_directory(
    ranks: Ranks, flags: dict[str, Any], data: RunData, dtype: torch.dtype, project: Path
) -> OpenedDirectory:
    """Open the output folder on the main process, and send the state of its checkpoint to the other processes.

    The others need not be able to read the folder. Only the main process computes the identity of the run, which hashes
    all samples.

    Args:
        ranks: the processes.
        flags: all flags.
        data: the data and the model's folder.
        dtype: type of the frozen weights.
        project: the folder of the program, whose commit is recorded.

    Raises:
        InputError: on every process, if the folder holds another run, or checkpoints of which none is sound, or if it
            cannot be written.
    """
    directory, found = None, (None, None, None)
    with ranks.failing_together():
        if ranks.is_main:
            identity = run_identity(flags, data, ranks.world_size, dtype)
            details = run_details(flags, data, identity, project)
            check = checkpoint_check(flags, data.model_config)
            if data.codec.is_whole and flags["eval_data_path"] and flags["num_scored_samples"] and flags["num_samples"]:
                check_place(Path(flags["output_dir"]))
            compare = partial(differences_of_runs, allow_other_world_size=flags["allow_other_world_size"])
            admit = partial(require_movable, flags=flags, world_size=ranks.world_size)
            where = Path(flags["output_dir"])
            directory = RunDirectory(where, identity, details, flags_before(), check, compare, admit)
            try:
                checkpoint = directory.open(flags["resume"], flags["overwrite"])
                if checkpoint is not None:
                    found = checkpoint, read_state(checkpoint), Division.of_checkpoint(checkpoint)
            except InputError as error:
                raise InputError(f"{error}{readings_hint(flags, str(error))}") from error
    return OpenedDirectory(directory, *ranks.broadcast_object(found))


def require_movable(checkpoint: Path, flags: dict[str, Any], world_size: int) -> None:
    """Check that a run may go on from a checkpoint with so many processes (see :meth:`Division.require_movable`)."""
    division, step = Division.of_checkpoint(checkpoint), read_state(checkpoint)["step"]
    division.require_movable(world_size, flags["lora_dropout"], flags["allow_other_world_size"], step)


def plan_run(
    opened: OpenedDirectory, dataset: SampleDataset, config: DistributedTrainingConfig, ranks: Ranks
) -> tuple[TrainingPlan, Division]:
    """Return the plan of a run, and how it divides micro-batches. If that has changed, a line says so."""
    samples, was, world_size = epoch_samples(dataset, config.seed), opened.division, ranks.world_size
    if was is None:
        division = Division(world_size, config.gradient_accumulation_steps)
    else:
        division = was.moved(opened.state["step"], samples, config, world_size)
    plan = TrainingPlan(samples, config, world_size, division.origin)
    if ranks.is_main and was is not None:
        for line in division.lines_about_move(was, plan.total_steps):
            logger.info("%s", line)
    return plan, division


def checkpoint_check(flags: dict[str, Any], model_config: HiggsAudioConfig) -> Callable[[Path], dict[str, Any]]:
    """Return :func:`check_checkpoint` for the adapter and the model of a run."""

    @cache  # building the model without weights takes a second, and most runs have no checkpoint to check
    def form() -> AdapterForm:
        names = [flag_field.name for flag_field in fields(HiggsAudioLoRATrainingConfig)]
        return adapter_form(model_config, HiggsAudioLoRATrainingConfig(**{name: flags[name] for name in names}))

    return lambda checkpoint: check_checkpoint(checkpoint, form(), model_config.audio_num_codebooks)


def readings_hint(flags: dict[str, Any], problem: str) -> str:
    """Return what to do if data differ only because this release reads numbers in other words, or an empty string."""
    if "_data.fingerprint" not in problem or flags["text_normalisation"] != "speech":
        return ""
    return (
        "\nIf the data are the same, this release reads some of their numbers in other words than the one that "
        "began the run. Normalise them with that release (python -m tools.prepare_data normalise) and give its files "
        "as --data_path and --eval_data_path: they have the same tokens"
    )


def restore(
    opened: OpenedDirectory,
    model: PeftModel,
    optimizer: AdapterOptimizer,
    total_steps: int,
    division: Division,
    num_codebooks: int,
    ranks: Ranks,
) -> TrainingState:
    """Load a checkpoint into model and optimizer. Return its state, or that of step 0 if there is no checkpoint.

    Only the main process reads the checkpoint; it sends what it read to the others.

    Afterwards all that lasts is loaded, and what loading took besides goes back to the GPU.
    """
    checkpoint = opened.checkpoint
    if checkpoint is not None:
        with ranks.failing_together():
            if ranks.is_main:
                set_peft_model_state_dict(model, load_file(checkpoint / ADAPTER_FILE))
                optimizer.load(checkpoint)
        optimizer.broadcast()
    release_cached_memory(optimizer.values.device)
    if checkpoint is None:
        return TrainingState(total_steps, LossTotals.zeros(num_codebooks), division)
    return TrainingState.of_content(opened.state, total_steps, division)


def make_evaluator(
    data: RunData, config: DistributedTrainingConfig, loss_config: LossConfig, ranks: Ranks
) -> Evaluator | None:
    """Return the evaluator, or None if there is no evaluation data."""
    if data.eval_dataset is None:
        return None
    loader = BatchLoader(data.eval_dataset, data.collator, ranks.rank)
    return Evaluator(data.eval_dataset, loader, config, loss_config, ranks, data.model_config.audio_num_codebooks)


def name_base(model: PeftModel, config: DistributedTrainingConfig) -> None:
    """Write the base model into the adapter's settings. Only a hub id has a revision."""
    for peft_config in model.peft_config.values():
        peft_config.base_model_name_or_path = config.model_path
        peft_config.revision = None if Path(config.model_path).exists() else config.model_revision


def leave_casts_to_autocast(model: PeftModel) -> None:
    """Stop PEFT from casting inputs to fp32, which keeps an fp32 copy of each. Autocast casts the adapter instead."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def install_layers(model: PeftModel, recompute: str) -> str | None:
    """Install the fused layers, or prepare the plain ones, which know two levels of recompute: none and layer.

    Returns:
        None, or the reason for the plain layers.
    """
    reason = install_fused_layers(model, recompute)
    if reason is not None and recompute != "none":
        enable_checkpointing(model.get_base_model())
    return reason


def open_log(
    run: TrainingComponents,
    config: DistributedTrainingConfig,
    loss_config: LossConfig,
    flags: dict[str, Any],
    ranks: Ranks,
    device: torch.device,
) -> ProgressLog:
    """Return the log of a run. On the main process it writes metrics, from the run's current step on."""
    state, directory, writer = run.state, run.opened.directory, None
    with ranks.failing_together():
        if directory is not None:
            directory.cut_metrics(state.step, state.evaluation_due)
            writer = PatientWriter(MetricsWriter(directory.folder, config.report_to, state.step, flags))
            run.checkpoints.write_first(writer.settle)
        if run.speech is not None:
            run.speech.open(writer)
    return ProgressLog(
        writer, state, run.data.train_dataset.sample_ids, loss_config, ranks, device, run.base_kl, config.keep_best_by
    )
