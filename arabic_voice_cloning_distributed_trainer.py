"""Train a LoRA adapter of Higgs Audio v2 for zero-shot Arabic voice cloning, on one process or many.

    python3 arabic_voice_cloning_distributed_trainer.py --data_path train.json --output_dir EXPMT/a
    torchrun --nproc_per_node 8 arabic_voice_cloning_distributed_trainer.py --data_path train.json --output_dir EXPMT/a

Run the same command again to resume a run that was stopped or killed.
"""

import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT_FOLDER = Path(__file__).resolve().parent
# Our own packages must be found first, regardless of PYTHONPATH, PYTHONSAFEPATH or an embedding program.
sys.path.insert(0, str(PROJECT_FOLDER))

import boson_multimodal

FOUND_PACKAGE = Path(next(iter(boson_multimodal.__path__))).resolve()
if FOUND_PACKAGE != PROJECT_FOLDER / "boson_multimodal":
    raise RuntimeError(
        f"another boson_multimodal was imported before this program's own: {FOUND_PACKAGE / '__init__.py'} instead of "
        f"{PROJECT_FOLDER / 'boson_multimodal' / '__init__.py'}; its model would learn the wrong thing. Import this "
        "program first, or run it in a process of its own."
    )

import torch
from peft import PeftModel
from torch import Tensor

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.command_line import run_command
from boson_multimodal.device import pick_device, usable_dtype
from boson_multimodal.errors import NamedError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.loss import LossConfig
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from boson_multimodal.model.higgs_audio.quantised_weights import require_quantisation
from boson_multimodal.model.higgs_audio.transfer import to_device
from boson_multimodal.process_group import Ranks
from boson_multimodal.progress import limit_library_bars
from lora_config import (
    HiggsAudioLoRATrainingConfig,
    create_higgs_audio_lora_model,
    load_base_model,
)
from voice_cloning.adapters.export import Adapter
from voice_cloning.adapters.initial import check_modules, read_initial_adapter, start_from
from voice_cloning.adapters.model_card import write_checkpoint_card
from voice_cloning.evaluation.selection import is_better_evaluation
from voice_cloning.run.components import (
    FinishedRun,
    Placement,
    TrainingComponents,
    install_layers,
    leave_casts_to_autocast,
    make_evaluator,
    name_base,
    open_log,
    open_run_directory,
    plan_run,
    restore,
)
from voice_cloning.run.data import encode_and_pack, load_run_data
from voice_cloning.run.dry_run import dry_run
from voice_cloning.run.identity import flag_values
from voice_cloning.run.memory_advice import encoding_memory, loading_memory, training_memory
from voice_cloning.run.memory_flags import settle_memory_flags
from voice_cloning.run.memory_trial import try_fullest_micro_batches
from voice_cloning.run.rank_checks import check_data, check_inputs, check_ranks, recorded_flags_of_main
from voice_cloning.run.report import (
    TrainingSummary,
    closing_lines,
    data_lines,
    finished_summary,
    set_up_messages,
    start_line,
    summary_of,
)
from voice_cloning.run.speech import find_recogniser_of, make_speech
from voice_cloning.run.step_evaluation import evaluate_step, is_evaluation_due
from voice_cloning.training.base_kl import MicroBatchPlace, make_base_kl, micro_batch_loss
from voice_cloning.training.batches import BatchLoader, StepBatches, count_labels
from voice_cloning.training.checkpoint_writer import CheckpointCopy, CheckpointWriter
from voice_cloning.training.config import DistributedTrainingConfig, parse_arguments
from voice_cloning.training.data import check_data_files
from voice_cloning.training.log import ProgressLog
from voice_cloning.training.optimizer import AdapterOptimizer
from voice_cloning.training.schedule import learning_rate, warmup_steps_of
from voice_cloning.training.state import TrainingState, is_over
from voice_cloning.training.stop_signals import StopSignals

logger = logging.getLogger(Path(__file__).stem)

REQUIRED_FORWARD_PARAMETERS = ("label_ids", "label_audio_ids", "audio_out_ids", "audio_features")


class ModelCompatibilityError(NamedError):
    """The imported ``HiggsAudioModel`` is not the class of this repository, or its forward has wrong parameters."""


class ArabicVoiceCloningDistributedTrainer:
    """Set-up and loop of one training run. The constructor makes every check that a wrong input can fail.

    Attributes:
        config, dataset_config, lora_config, loss_config: the values of the flags.
        ranks: the rank of this process, and the number of processes.
        placement: the device of this process, and the type of the frozen weights.
        components: everything that the training loop uses, or a finished run.

    Raises:
        ModelCompatibilityError: before any process group, device or weight is touched.
        InputError: if an input is wrong, before any weight is loaded. It lists every problem that was found.
    """

    config: DistributedTrainingConfig
    dataset_config: ArabicVoiceCloningDatasetConfig
    lora_config: HiggsAudioLoRATrainingConfig
    loss_config: LossConfig
    ranks: Ranks
    placement: Placement
    components: TrainingComponents | FinishedRun

    def __init__(
        self,
        training_config: DistributedTrainingConfig,
        dataset_config: ArabicVoiceCloningDatasetConfig,
        lora_config: HiggsAudioLoRATrainingConfig,
        loss_config: LossConfig,
    ) -> None:
        self.config = training_config
        self.dataset_config = dataset_config
        self.lora_config = lora_config
        self.loss_config = loss_config
        self._validate_model_compatibility()
        self.ranks = self._setup_distributed()
        self.placement = self._setup_device()
        self.components = self._initialize_components()

    # -- set-up ----------------------------------------------------------------------------------------------------

    def _validate_model_compatibility(self, model_class: type | None = None) -> None:
        """Check the current signature of ``HiggsAudioModel.forward``.

        A fork whose forward takes ``labels`` shifts and masks the labels itself. It would learn the wrong thing.

        Raises:
            ModelCompatibilityError: if forward takes ``labels`` or lacks a field of a batch. The signature is logged.
        """
        model_class = model_class or HiggsAudioModel
        signature = inspect.signature(model_class.forward)
        missing = [name for name in REQUIRED_FORWARD_PARAMETERS if name not in signature.parameters]
        if "labels" in signature.parameters:
            message = "Model version compatibility check failed - wrong HiggsAudioModel version"
        elif missing:
            message = f"Model missing required parameters: {missing}"
        else:
            return
        logger.error("%s.forward of %s has %s", model_class.__name__, inspect.getfile(model_class), signature)
        raise ModelCompatibilityError(message)

    def _setup_distributed(self) -> Ranks:
        """Join the process group if torchrun started this process; otherwise ``local_rank`` is -1. Compare all."""
        ranks = Ranks.join(self.config.collective_timeout)
        check_ranks(ranks, self._flags(), PROJECT_FOLDER)
        limit_library_bars(disable=not ranks.is_main)
        return ranks

    def _setup_device(self) -> Placement:
        """Choose one GPU for this process, or the CPU, and the type of the frozen weights."""
        device = pick_device(self.ranks.local_rank)
        require_quantisation(self.config.quantise, device)
        return Placement(device, usable_dtype(self.config.torch_dtype, device))

    def _initialize_components(self) -> TrainingComponents | FinishedRun:
        """Check the data, then the output folder, and load weights last, so that mistakes are found within seconds."""
        config = self.config
        check_data_files(config)
        check_inputs(self.ranks, config, self.dataset_config)
        initial = config.init_adapter and read_initial_adapter(Path(config.init_adapter), self.lora_config)
        model_folder = resolve_checkpoint(
            config.model_path, config.model_revision, "--model_path", ("tokenizer.json", "*.safetensors")
        )
        data = load_run_data(config, self.dataset_config, model_folder)
        check_data(self.ranks, config, self.dataset_config, data)
        if initial:
            check_modules(initial, Path(config.init_adapter), self.lora_config, data.model_config)
        recogniser = find_recogniser_of(config, data, self.placement.device, self.ranks)
        for line in data_lines(data, self.dataset_config, config.init_adapter):
            self._log_main("%s", line)
        where = self.ranks, self.placement
        config = self.config = settle_memory_flags(config, self.lora_config, data, *where, recogniser)
        opened = open_run_directory(self.ranks, self._flags(), data, self.placement.dtype, PROJECT_FOLDER)
        if opened.state is not None and is_over(opened.state, config.patience):
            return FinishedRun(opened)
        with encoding_memory(config, self.dataset_config, self.placement.device):
            data = encode_and_pack(data, self.placement.device)
        plan, division = plan_run(opened, data.train_dataset, config, self.ranks)
        speech = make_speech(data, config, self.dataset_config, self.lora_config, *where, recogniser)
        with loading_memory(config, opened, data, self.placement):
            model = self._load_model(model_folder, initial)
            self._check_wrapped_model(model)
            optimizer = AdapterOptimizer(model.parameters(), config, self.ranks)
            codebooks = data.model_config.audio_num_codebooks
            state = restore(opened, model, optimizer, plan.total_steps, division, codebooks, self.ranks)
            checkpoints = CheckpointWriter(opened.directory, model, optimizer, config.save_total_limit, self.ranks)
        components = TrainingComponents(
            data=data,
            opened=opened,
            plan=plan,
            warmup_steps=warmup_steps_of(config, plan.total_steps),
            model=model,
            optimizer=optimizer,
            checkpoints=checkpoints,
            loader=BatchLoader(data.train_dataset, data.collator, self.ranks.rank),
            evaluator=make_evaluator(data, config, self.loss_config, self.ranks),
            base_kl=make_base_kl(model, config, self.loss_config, self.placement.dtype),
            speech=speech,
            is_better=is_better_evaluation(config.keep_best_by, self._log_main),
            state=state,
        )
        if self.ranks.is_main:  # the line takes a plan of the first epoch, and the sum of all clips
            logger.info("%s", start_line(components, self.ranks, self.placement))
        if opened.checkpoint is not None:
            self._log_main("resuming from %s at step %d of %d", opened.checkpoint, state.step, state.total_steps)
        return components

    def _load_model(self, folder: Path, initial: Adapter | None) -> PeftModel:
        """Load the base model and add a new or a trained adapter to it."""
        config, placement = self.config, self.placement
        how = {"": placement.device}, placement.dtype, False, config.quantise
        # Not earlier: loading the codec draws random numbers, and only a run that encodes clips loads it.
        torch.manual_seed(config.seed)
        if initial is None:
            model, _, _ = create_higgs_audio_lora_model(folder, self.lora_config, *how)
        else:
            model = start_from(load_base_model(folder, *how), initial, self.lora_config)
        name_base(model, config)
        if placement.dtype != torch.float32:
            leave_casts_to_autocast(model)
        if (reason := install_layers(model, config.recompute)) is not None:
            self._log_main("the plain layers are used, which need more memory and time: %s", reason)
        return model

    def _check_wrapped_model(self, model: PeftModel) -> None:
        """Check that the PEFT wrapper holds the model of this repository, with the forward of this repository."""
        inner = model.get_base_model()
        if type(inner) is not HiggsAudioModel:
            raise ModelCompatibilityError("Model version compatibility check failed - wrong HiggsAudioModel version")
        self._validate_model_compatibility(type(inner))

    def _flags(self) -> dict[str, Any]:
        """Return every flag of the four configurations by name."""
        return flag_values((self.config, self.dataset_config, self.lora_config, self.loss_config))

    def _log_main(self, message: str, *values: Any) -> None:
        """Log a message on the main process."""
        if self.ranks.is_main:
            logger.info(message, *values)

    # -- one optimizer step ----------------------------------------------------------------------------------------

    def _training_step(self, batch: HiggsAudioBatchInput) -> HiggsAudioModelOutput:
        """Run one forward pass over a micro-batch, in training and in evaluation. It makes no optimizer step."""
        dtype = self.placement.dtype
        with torch.autocast(self.placement.device.type, dtype, enabled=dtype != torch.float32):
            return self.components.model(**vars(batch))

    def _optimizer_step(self, batches: StepBatches, label_counts: Tensor) -> Tensor:
        """Accumulate the gradients of this process's micro-batches, and make one update with all processes.

        Args:
            batches: the batches of this process.
            label_counts: (1 + K,) labels of the step over all processes: text, then each codebook. The loss sums of
                each micro-batch are divided by these counts, so that the gradients add up to that of the mean loss.

        Returns:
            (micro-batches, 1 + K + 1), on the device: loss sums of this process; the last column is the gradient norm.
        """
        run, state = self.components, self.components.state
        counts = to_device(label_counts.float(), self.placement.device)
        sums = []
        for index, batch in enumerate(batches.micro_batches):
            number = index * self.ranks.world_size + self.ranks.rank
            torch.manual_seed(state.division.dropout_seed(self.config.seed, batches.epoch, state.step, number))
            if batch is None:
                sums.append(torch.zeros_like(counts))
                continue
            place = MicroBatchPlace(state.step, number)
            loss, found = micro_batch_loss(self._training_step, batch, counts, self.loss_config, run.base_kl, place)
            loss.backward()
            sums.append(found)
        rate = learning_rate(self.config, state.step, run.warmup_steps, state.total_steps)
        norm = run.optimizer.step(rate)
        return torch.cat([torch.stack(sums), norm.expand(len(sums), 1)], dim=1)

    # -- the loop --------------------------------------------------------------------------------------------------

    def train(self) -> TrainingSummary:
        """Train to the end, or until SIGTERM or Ctrl-C. The last step has a checkpoint unless the process dies.

        Raises:
            NonFiniteLossError: if a loss or gradient is not finite. It names step and samples. Nothing more is saved.
        """
        run = self.components
        if isinstance(run, FinishedRun):
            self._log_main("this run is finished: step %d, adapter in %s", run.step, run.opened.checkpoint)
            with run.opened:
                return finished_summary(run, self.config.keep_best_by)
        state = run.state
        run.model.train()
        log = open_log(run, self.config, self.loss_config, self._flags(), self.ranks, self.placement.device)
        memory = training_memory(self.config, run, self.placement.device)
        with run.opened, StopSignals() as stop, log, memory, run.checkpoints:
            try_fullest_micro_batches(run, self._training_step, self.config, self.loss_config, self.ranks)
            if state.evaluation_due:
                self._evaluate(log, stop)
                self._save(log)
            for batches in run.loader.load_from(run.plan, state.step):
                if self.ranks.any(stop.received is not None) or state.is_finished:
                    break
                label_counts = self.ranks.sum(count_labels(batches.micro_batches, run.num_codebooks))
                sums = self._optimizer_step(batches, label_counts)
                state.step += 1
                log.add_step(batches, label_counts, sums)
                self._after_step(log, stop)
            if not state.is_finished:
                self._save(log, last=True)
            run.checkpoints.finish()
        return summary_of(run, stop.received, self.config.keep_best_by, self.ranks)

    def _after_step(self, log: ProgressLog, stop: StopSignals) -> None:
        """Log, evaluate and save if due, in this order, because a checkpoint holds the evaluation of its step."""
        config, run, state = self.config, self.components, self.components.state
        run.checkpoints.check()
        if state.step % config.logging_steps == 0 or state.is_last_step:
            log.write_losses(learning_rate(config, state.step - 1, run.warmup_steps, state.total_steps))
        state.evaluation_due = is_evaluation_due(run, config)
        is_best = self._evaluate(log, stop) if state.evaluation_due else False
        if state.step % config.save_steps == 0 or state.is_last_step or is_best:
            self._save(log)

    def _evaluate(self, log: ProgressLog, stop: StopSignals) -> bool:
        """Evaluate and speak, each if it is due, and return whether the result is the best so far.

        A stop signal ends this early, without a result. A resumed run then repeats it.
        """
        run = self.components
        log.announce_evaluation()
        with log.paused():
            run.model.eval()
            found = evaluate_step(run, self._training_step, self.config, lambda: stop.received is not None)
            run.model.train()
        if found is None:
            return False
        is_best = run.state.note_evaluation(found.result, run.is_better, self.config.patience)
        log.write_evaluation(found.figures, is_best)
        if run.state.ended_early:  # the schedule is that of the planned steps
            log.write_early_end(learning_rate(self.config, run.state.step - 1, run.warmup_steps, run.plan.total_steps))
        return is_best

    def _save(self, log: ProgressLog, last: bool = False) -> None:
        """Begin to write a checkpoint of this step, unless the step already has one. Wait for the last one."""
        state = self.components.state
        with log.paused():
            if state.saved_step != state.step:
                self.components.checkpoints.begin(state, self._write_checkpoint, last or state.is_last_step)

    def _write_checkpoint(self, state: TrainingState, copied: CheckpointCopy, folder: Path) -> None:
        """Write a state, and what was copied at its step. A thread calls this while training goes on."""
        state.save(folder)
        copied.save(folder)
        write_checkpoint_card(folder, self.components.opened.directory.folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Return its exit status: 0 for a finished run, 1 for an error, 128 + N if signal N stopped it."""
    interrupted = "interrupted before the first step; the clips encoded so far stay in the cache"
    return run_command(lambda: _run(sys.argv[1:] if arguments is None else arguments), interrupted)


def _run(arguments: Sequence[str]) -> int:
    set_up_messages(logger)
    configs = parse_arguments(arguments, __doc__, recorded_flags_of_main)
    if configs[0].dry_run:
        return dry_run(*configs[:3])
    trainer = ArabicVoiceCloningDistributedTrainer(*configs)
    summary = trainer.train()
    if trainer.ranks.is_main:
        print("\n".join(closing_lines(summary)))
    return 0 if summary.stopped_by is None else 128 + summary.stopped_by


if __name__ == "__main__":
    sys.exit(main())
