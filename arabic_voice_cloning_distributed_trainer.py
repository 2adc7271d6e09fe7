"""Train a LoRA adapter of Higgs Audio v2 for zero-shot Arabic voice cloning, on one process or many.

    python3 arabic_voice_cloning_distributed_trainer.py --data_path train.json --output_dir EXPMT/a
    torchrun --nproc_per_node 8 arabic_voice_cloning_distributed_trainer.py --data_path train.json --output_dir EXPMT/a

A run that was stopped, however it was stopped, goes on when the same command is given again.
"""

import hashlib
import inspect
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROJECT_FOLDER = Path(__file__).resolve().parent
# Our own packages come first, whatever PYTHONPATH, PYTHONSAFEPATH or an embedding program put there.
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
import transformers
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from torch import distributed as dist
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from arabic_voice_cloning_dataset import PROMPT_STYLES, ArabicVoiceCloningDataset, ArabicVoiceCloningDatasetConfig
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, HiggsAudioBatchInput
from boson_multimodal import constants
from boson_multimodal.audio_processing.higgs_audio_tokenizer import load_higgs_audio_tokenizer
from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.loss import LossConfig, weighted_loss
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import HiggsAudioModelOutput
from boson_multimodal.process_group import join_process_group, pick_device
from lora_config import (
    ADAPTER_FILE,
    HiggsAudioLoRATrainingConfig,
    check_adapter,
    create_higgs_audio_lora_model,
    load_adapter,
    load_base_model,
)
from voice_cloning.adapters.model_card import write_checkpoint_card
from voice_cloning.training.batch_planning import Step, plan_epoch, plan_evaluation
from voice_cloning.training.config import TORCH_DTYPES, DistributedTrainingConfig, parse_arguments
from voice_cloning.training.data import (
    Codec,
    check_data_files,
    find_codec,
    find_codec_beside_codes,
    load_datasets,
    load_feature_extractor,
)
from voice_cloning.training.log import (
    LossTotals,
    MetricsWriter,
    NonFiniteLossError,
    StepLedger,
    Throughput,
    peak_memory_gb,
)
from voice_cloning.training.run_directory import (
    TENSORBOARD_FOLDER,
    RunDirectory,
    checkpoint_step,
    environment,
    file_fingerprint,
    folder_fingerprint,
    read_state,
)
from voice_cloning.training.stop_signals import StopSignals

logger = logging.getLogger(Path(__file__).stem)

REQUIRED_FORWARD_PARAMETERS = ("label_ids", "label_audio_ids", "audio_out_ids", "audio_features")
SECONDS_FOR_RANK_0_TO_SPEAK = 3.0
OPTIMIZER_FILE = "optimizer.pt"
DEFAULT_WARMUP_SHARE = 0.03
NEUTRAL_FLAGS = frozenset(
    "data_path eval_data_path output_dir model_path model_revision audio_tokenizer_path audio_tokenizer_revision "
    "whisper_processor_path whisper_processor_revision init_adapter logging_steps eval_steps save_steps "
    "save_total_limit resume overwrite report_to code_cache_dir codes drop_invalid max_positions_per_sample".split()
)
"""Flags that may change when a run goes on: they do not enter what it computes, or enter by a fingerprint instead."""


class ModelCompatibilityError(RuntimeError):
    """The ``HiggsAudioModel`` that was imported is not this repository's, or not of its form."""


@dataclass(frozen=True)
class TrainingSummary:
    """How a call of ``train`` ended.

    Attributes:
        step, total_steps: optimizer steps done, and those of a whole run.
        finished: whether all were done.
        stopped_by: the signal that ended it early, if any.
        checkpoint, best_checkpoint: the newest one, and the best by evaluation loss.
    """

    step: int
    total_steps: int
    finished: bool
    stopped_by: int | None
    checkpoint: Path | None
    best_checkpoint: Path | None


class ArabicVoiceCloningDistributedTrainer:
    """Set-up, optimizer step and loop. Construction does everything that can fail for a wrong input.

    Raises:
        ModelCompatibilityError: before any process group, device or weight is touched.
        InputError: for whatever the user can mend, all offenders at once, before any weight is loaded.
    """

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
        self._setup_distributed()
        self._setup_device()
        self._initialize_components()

    # -- set-up ----------------------------------------------------------------------------------------------------

    def _validate_model_compatibility(self, model_class: type | None = None) -> None:
        """Check the signature of ``HiggsAudioModel.forward`` as it is now.

        A fork whose forward takes ``labels`` shifts and masks them by itself, and learns the wrong thing.

        Raises:
            ModelCompatibilityError: if it takes ``labels``, or lacks what a batch holds; the signature is logged.
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

    def _setup_distributed(self) -> None:
        """Join the process group if torchrun started us; ``local_rank`` is -1 otherwise."""
        self.local_rank = join_process_group()
        self.rank, self.world_size = 0, 1
        if self.local_rank >= 0:
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.is_main = self.rank == 0
        if not self.is_main:
            transformers.utils.logging.disable_progress_bar()

    def _setup_device(self) -> None:
        """One GPU per process, or the CPU; and the type of the frozen weights."""
        self.device = pick_device(self.local_rank)
        automatic = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = TORCH_DTYPES[self.config.torch_dtype] or automatic

    def _initialize_components(self) -> None:
        """Data first, then the output folder, then weights; so that a mistake costs seconds."""
        config = self.config
        check_data_files(config)
        if config.init_adapter is not None:
            check_adapter(Path(config.init_adapter), self.lora_config)
        self.model_folder = resolve_checkpoint(
            config.model_path, config.model_revision, "--model_path", ("tokenizer.json", "*.safetensors")
        )
        codec = self._find_codec()
        self.model_config = HiggsAudioConfig.from_pretrained(self.model_folder)
        self.feature_extractor = load_feature_extractor(config, self.model_config)
        self.collator = ArabicVoiceCloningTrainingCollator.from_config(self.model_config, self.feature_extractor)
        self._load_datasets(codec)
        self.checkpoint = self._open_run_directory()
        self.finished = self.checkpoint is not None and read_state(self.checkpoint)["finished"]
        if self.finished:
            return
        self._encode(codec)
        self._plan()
        self._load_model()
        self._create_optimizer()
        self._restore()
        self._check_wrapped_model()

    def _find_codec(self) -> Codec:
        named = self.config.audio_tokenizer_path, self.config.audio_tokenizer_revision
        if self.dataset_config.codes:
            return find_codec_beside_codes(*named)
        return find_codec(*named, Path(self.dataset_config.code_cache_dir))

    def _load_datasets(self, codec: Codec) -> None:
        style = self.dataset_config.prompt_style
        self._say("prompt_style %s %s", style, PROMPT_STYLES[style])
        for other in PROMPT_STYLES.keys() - {style}:
            self._say("  --prompt_style %s: %s", other, PROMPT_STYLES[other])
        self.train_dataset, self.eval_dataset = load_datasets(
            self.config, self.dataset_config, self.model_config, self.model_folder, codec
        )
        if self.feature_extractor is not None:
            codes = ", and as codes" if self.model_config.encode_audio_in_tokens else ""
            extractor = self.feature_extractor
            bins, seconds = extractor.feature_size, extractor.chunk_length
            self._say("references reach the model as features: %d mel bins, %d s at once%s", bins, seconds, codes)
        for dataset in filter(None, (self.train_dataset, self.eval_dataset)):
            self._say("%s: %d samples, %d dropped as invalid", dataset.data_path, len(dataset), dataset.num_dropped)
            if dataset.num_absent:
                self._say("  %d of its clips are gone; their codes are in the cache", dataset.num_absent)
        if self.dataset_config.codes:
            compared = "it is" if codec.is_whole else "not compared with"
            files, made_by = " ".join(self.dataset_config.codes), self.train_dataset.cache.codec
            self._say("codes of %s, by codec %s: %s %s", files, made_by, compared, self.config.audio_tokenizer_path)

    def _open_run_directory(self) -> Path | None:
        """Let the main process decide where the run begins; all processes learn it, or why it cannot."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                self.run = RunDirectory(Path(self.config.output_dir), self._identity(), self._details())
                outcome[0] = self.run.open(self.config.resume, self.config.overwrite)
            except InputError as error:
                outcome[1] = str(error)
        if self.world_size > 1:
            dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise InputError(outcome[1])
        return outcome[0]

    def _flags(self) -> dict[str, Any]:
        """Every flag of the four configurations by name."""
        configs = (self.config, self.dataset_config, self.lora_config, self.loss_config)
        return {name: value for config in configs for name, value in asdict(config).items()}

    def _identity(self) -> dict[str, Any]:
        """What decides the numbers of a run."""
        datasets = {"train_data": self.train_dataset, "eval_data": self.eval_dataset}
        identity: dict[str, Any] = {
            "flags": {name: value for name, value in self._flags().items() if name not in NEUTRAL_FLAGS},
            "world_size": self.world_size,
            "torch_dtype": str(self.dtype),
            "model": folder_fingerprint(self.model_folder),
            "init_adapter": self.config.init_adapter
            and file_fingerprint(Path(self.config.init_adapter) / ADAPTER_FILE),
        }
        if self.feature_extractor is not None:
            identity["feature_extractor"] = self.feature_extractor.to_dict()
        for name, dataset in datasets.items():
            identity[name] = dataset and {"samples": len(dataset), "fingerprint": dataset.fingerprint()}
        return identity

    def _details(self) -> dict[str, Any]:
        datasets = {"training": self.train_dataset, "evaluation": self.eval_dataset}
        data = {part: dataset and dataset.summary() for part, dataset in datasets.items()}
        return {"flags": self._flags(), "data": data, **environment(PROJECT_FOLDER)}

    def _encode(self, codec: Codec) -> None:
        for dataset in filter(None, (self.train_dataset, self.eval_dataset)):
            encoded = dataset.encode_missing(lambda: load_higgs_audio_tokenizer(codec.folder, self.device))
            self._say("%s: %d clips encoded, the codes of the rest were there", dataset.data_path, encoded)

    def _plan(self) -> None:
        """How many steps there are, in epochs and in all."""
        config = self.config
        if config.max_steps is not None:
            self.total_steps = config.max_steps
        else:
            self.total_steps = sum(len(self._plan_epoch(epoch)) for epoch in range(config.num_train_epochs))
        self.warmup_steps = config.warmup_steps
        if self.warmup_steps is None:
            self.warmup_steps = math.ceil(DEFAULT_WARMUP_SHARE * self.total_steps)
        self._say(
            "%d optimizer steps, %d in the first epoch, on %d process(es) of %s in %s",
            self.total_steps,
            len(self._plan_epoch(0)),
            self.world_size,
            self.device.type,
            self.dtype,
        )

    def _plan_epoch(self, epoch: int) -> list[Step]:
        return plan_epoch(
            self.train_dataset.lengths,
            max_tokens_per_batch=self.config.max_tokens_per_batch,
            batch_size=self.config.batch_size,
            world_size=self.world_size,
            gradient_accumulation_steps=self.config.gradient_accumulation_steps,
            seed=self.config.seed,
            epoch=epoch,
        )

    def _load_model(self) -> None:
        config = self.config
        device_map = {"": self.device}
        # Here, not earlier: loading the codec draws random numbers, and only a run with clips to encode loads it.
        torch.manual_seed(config.seed)
        if config.init_adapter is None:
            self.model, _, _ = create_higgs_audio_lora_model(
                self.model_folder, self.lora_config, device_map, self.dtype, config.gradient_checkpointing
            )
        else:
            base = load_base_model(self.model_folder, device_map, self.dtype, config.gradient_checkpointing)
            self.model = load_adapter(base, Path(config.init_adapter), self.lora_config)
        for peft_config in self.model.peft_config.values():
            peft_config.base_model_name_or_path = config.model_path
            peft_config.revision = None if Path(config.model_path).exists() else config.model_revision
        if self.dtype != torch.float32:
            # Under autocast the adapters' fp32 weights are cast; PEFT would keep an fp32 copy of each input instead.
            for module in self.model.modules():
                if hasattr(module, "cast_input_dtype_enabled"):
                    module.cast_input_dtype_enabled = False

    def _create_optimizer(self) -> None:
        """AdamW on the adapter; every gradient is a view into one flat buffer, so that ranks add it in one call."""
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.gradients = torch.zeros(sum(p.numel() for p in self.trainable), device=self.device)
        start = 0
        for parameter in self.trainable:
            if self.world_size > 1:
                dist.broadcast(parameter.data, src=0)
            parameter.grad = self.gradients[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        self.optimizer = torch.optim.AdamW(
            self.trainable,
            lr=self.config.learning_rate,
            betas=(self.config.adam_beta1, self.config.adam_beta2),
            eps=self.config.adam_epsilon,
            weight_decay=self.config.weight_decay,
        )

    def _restore(self) -> None:
        """Take the run up at its checkpoint, or at step 0."""
        self.step, self.best, self.evaluation_due = 0, None, False
        totals = LossTotals.zeros(self.model_config.audio_num_codebooks)
        if self.checkpoint is not None:
            state = read_state(self.checkpoint)
            set_peft_model_state_dict(self.model, load_file(self.checkpoint / ADAPTER_FILE))
            self.optimizer.load_state_dict(
                torch.load(self.checkpoint / OPTIMIZER_FILE, map_location=self.device, weights_only=True)
            )
            self.step, self.best, self.evaluation_due = state["step"], state["best"], state["evaluation_due"]
            totals = LossTotals.from_state(state["totals"])
            self._say("going on from %s at step %d of %d", self.checkpoint, self.step, self.total_steps)
        self.last_saved = None if self.evaluation_due else self.step  # saved anew once it is evaluated
        self.ledger = StepLedger(totals, self._ids)

    def _check_wrapped_model(self) -> None:
        """Inside the PEFT wrapper there must be this repository's model, with this repository's forward."""
        inner = self.model.get_base_model()
        if type(inner) is not HiggsAudioModel:
            raise ModelCompatibilityError("Model version compatibility check failed - wrong HiggsAudioModel version")
        self._validate_model_compatibility(type(inner))

    def _say(self, message: str, *values: Any) -> None:
        if self.is_main:
            logger.info(message, *values)

    # -- one optimizer step ----------------------------------------------------------------------------------------

    def _training_step(self, batch: HiggsAudioBatchInput) -> HiggsAudioModelOutput:
        """One forward pass over a micro-batch. Evaluation takes it too, without gradients."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                audio_features=batch.audio_features,
                audio_feature_attention_mask=batch.audio_feature_attention_mask,
                audio_in_ids=batch.audio_in_ids,
                audio_in_ids_start=batch.audio_in_ids_start,
                audio_out_ids=batch.audio_out_ids,
                audio_out_ids_start=batch.audio_out_ids_start,
                audio_out_ids_start_group_loc=batch.audio_out_ids_start_group_loc,
                label_ids=batch.label_ids,
                label_audio_ids=batch.label_audio_ids,
            )

    def _optimizer_step(self, epoch: int, batches: Sequence[HiggsAudioBatchInput | None], counts: Tensor) -> Tensor:
        """Gradients of this process's micro-batches, added over processes, and one update.

        Args:
            counts: (1 + K,) labels of the whole step: text, then each codebook. Each micro-batch's loss sums are
                divided by them, so that the gradients add up to those of the step's mean.

        Returns:
            (micro-batches, 1 + K) loss sums of this process, and the gradient norm in a last column; on the device.
        """
        on_device = counts.to(self.device, torch.float32, non_blocking=True)
        sums = []
        for index, batch in enumerate(batches):
            torch.manual_seed(_seed(self.config.seed, epoch, self.step, index, self.rank))
            if batch is None:
                sums.append(torch.zeros_like(on_device))
                continue
            output = self._training_step(batch)
            loss = weighted_loss(
                output.text_loss_sum, on_device[0], output.audio_loss_sum, on_device[1:], self.loss_config
            )
            loss.backward()
            sums.append(torch.cat([output.text_loss_sum.detach().view(1), output.audio_loss_sum.detach()]))
        if self.world_size > 1:
            dist.all_reduce(self.gradients)
        norm = self.gradients.norm()
        if self.config.max_grad_norm > 0:
            self.gradients.mul_((self.config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step)
        self.optimizer.step()
        self.gradients.zero_()
        stacked = torch.stack(sums)
        return torch.cat([stacked, norm.expand(len(sums), 1)], dim=1)

    def _learning_rate(self, step: int) -> float:
        """Rate of the update that follows ``step`` others: linear warm-up, then cosine to 0 or constant."""
        peak = self.config.learning_rate
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        if self.config.lr_scheduler_type == "constant":
            return peak
        share = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return peak * 0.5 * (1.0 + math.cos(math.pi * share))

    def _count_labels(self, batches: Sequence[HiggsAudioBatchInput | None], stop: bool) -> tuple[Tensor, bool]:
        """(1 + K,) labels of the step over all processes, and whether any of them was told to stop; on the host."""
        counts = torch.zeros(2 + self.model_config.audio_num_codebooks, dtype=torch.long)
        counts[0] = int(stop)
        for batch in filter(None, batches):
            counts[1] += (batch.label_ids != constants.IGNORE_INDEX).sum()
            counts[2:] += (batch.label_audio_ids != constants.IGNORE_INDEX).sum(dim=1)
        if self.world_size > 1:
            dist.all_reduce(counts)
        return counts[1:], bool(counts[0])

    # -- the loop --------------------------------------------------------------------------------------------------

    def train(self) -> TrainingSummary:
        """Run to the end, or until SIGTERM or Ctrl-C; every way out but a crash leaves a checkpoint of the last step.

        Raises:
            NonFiniteLossError: naming the step and the samples; nothing after the last good checkpoint is saved.
        """
        try:
            return self._report_finished() if self.finished else self._train()
        finally:
            if self.is_main:
                self.run.close()

    def _report_finished(self) -> TrainingSummary:
        step = checkpoint_step(self.checkpoint)
        self._say("this run is finished: step %d, adapter in %s", step, self.checkpoint)
        return self._summary(step, step, None)

    def _train(self) -> TrainingSummary:
        self._open_log()
        self.model.train()
        with StopSignals() as self.stop_signals, logging_redirect_tqdm(), self._progress_bar() as self.progress:
            if self.evaluation_due:
                self._evaluate()
                self._save()
            for epoch, plan, batches in self._micro_batches():
                counts, stop = self._count_labels(batches, self.stop_signals.received is not None)
                if stop:
                    break
                sums = self._optimizer_step(epoch, batches, counts)
                self.step += 1
                self.ledger.add(self.step, [ranks[self.rank] for ranks in plan], counts, sums)
                self._after_step(plan, counts)
            if not self._is_finished():
                self._save()
        if self.is_main:
            self.writer.close()
        stopped_by = None if self._is_finished() else self.stop_signals.received
        return self._summary(self.step, self.total_steps, stopped_by)

    def _is_finished(self) -> bool:
        return self.step == self.total_steps and not self.evaluation_due

    def _open_log(self) -> None:
        self.throughput = Throughput()
        if self.is_main:
            self.writer = MetricsWriter(
                self.run.cut_metrics(self.step),
                self.run.folder / TENSORBOARD_FOLDER,
                self.config.report_to,
                self.step,
                self._flags(),
            )

    def _progress_bar(self) -> tqdm:
        return tqdm(total=self.total_steps, initial=self.step, desc="training", unit="step", disable=not self.is_main)

    def _micro_batches(self) -> Iterator[tuple[int, Step, list[HiggsAudioBatchInput | None]]]:
        """(epoch, step of the plan, this process's micro-batches) from ``self.step`` on, collated one step ahead."""
        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for epoch, plan in self._steps_from(self.step):
                following = epoch, plan, pool.submit(self._collate, plan)
                if ahead is not None:
                    yield ahead[0], ahead[1], ahead[2].result()
                ahead = following
            if ahead is not None:
                yield ahead[0], ahead[1], ahead[2].result()

    def _steps_from(self, start: int) -> Iterator[tuple[int, Step]]:
        """The plan's steps with their epochs, from the ``start``-th to the last of the run."""
        position, epoch = 0, 0
        while position < self.total_steps:
            plan = self._plan_epoch(epoch)
            wanted = range(max(0, start - position), min(len(plan), self.total_steps - position))
            for index in wanted:
                yield epoch, plan[index]
            position += len(plan)
            epoch += 1

    def _collate(self, plan: Step, dataset: ArabicVoiceCloningDataset | None = None) -> list:
        dataset = dataset or self.train_dataset
        mine = [ranks[self.rank] for ranks in plan]
        return [self.collator([dataset[i] for i in indices]) if indices else None for indices in mine]

    def _after_step(self, plan: Step, counts: Tensor) -> None:
        """Log, evaluate and save where it is time to, in this order: a checkpoint holds the evaluation of its step."""
        config, last = self.config, self.step == self.total_steps
        lengths = self.train_dataset.lengths
        self.throughput.add(sum(lengths[i] for ranks in plan for ids in ranks for i in ids), int(counts[1]))
        self.progress.update()
        if self.step % config.logging_steps == 0 or last:
            self._log()
        self.evaluation_due = self.eval_dataset is not None and (self.step % config.eval_steps == 0 or last)
        improved = self._evaluate() if self.evaluation_due else False
        if self.step % config.save_steps == 0 or last or improved:
            self._save()

    def _ids(self, indices: Sequence[int]) -> str:
        return ", ".join(self.train_dataset.records[i].sample_id for i in indices)

    def _log(self) -> None:
        """Write the interval's losses, over all labels since the last line."""
        losses = self.ledger.take().losses(self.loss_config)
        rate = self._learning_rate(self.step - 1)
        rates = self.throughput.read()
        self.progress.set_postfix(
            loss=f"{losses['loss']:.4f}", lr=f"{rate:.2e}", tokens_per_s=f"{rates['tokens_per_second']:.0f}"
        )
        if self.is_main:
            optimizer = {"grad_norm": self.ledger.grad_norm, "learning_rate": rate}
            memory = {"peak_memory_gb": peak_memory_gb(self.device)}
            self.writer.write({"step": self.step, **losses, **optimizer, **memory, **rates})

    @torch.no_grad()
    def _evaluate(self) -> bool:
        """Mean losses over all labels of the evaluation data. Returns whether they are the best so far.

        A stop signal ends it early, without a result; it stays due, for the run that goes on.
        """
        self.ledger.settle()
        self.throughput.pause()
        plan = plan_evaluation(
            self.eval_dataset.lengths,
            max_tokens_per_batch=self.config.max_tokens_per_batch,
            batch_size=self.config.batch_size,
            world_size=self.world_size,
        )
        totals = LossTotals.zeros(self.model_config.audio_num_codebooks)
        stop = False
        self.model.eval()
        for step in tqdm(plan, desc="evaluating", unit="batch", leave=False, disable=not self.is_main):
            batches = self._collate(step, self.eval_dataset)
            counts, stop = self._count_labels(batches, self.stop_signals.received is not None)
            if stop:
                break
            sums = torch.zeros_like(totals.sums)
            for batch in filter(None, batches):
                output = self._training_step(batch)
                sums += torch.cat([output.text_loss_sum.view(1), output.audio_loss_sum]).double().cpu()
            if self.world_size > 1:
                dist.all_reduce(sums)
            totals.add(sums, counts)
        self.model.train()
        self.throughput.go_on()
        if stop:
            return False
        self.evaluation_due = False
        losses = totals.losses(self.loss_config, prefix="eval_")
        best = self.best is None or losses["eval_loss"] < self.best["eval_loss"]
        if best:
            self.best = {"step": self.step, "eval_loss": losses["eval_loss"]}
        self._say("step %d: eval_loss %.4f%s", self.step, losses["eval_loss"], " (best so far)" if best else "")
        if self.is_main:
            self.writer.write({"step": self.step, **losses})
        return best

    def _save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        self.ledger.settle()
        if self.last_saved == self.step:
            return
        self.throughput.pause()
        if self.is_main:
            state = {
                "step": self.step,
                "total_steps": self.total_steps,
                "finished": self._is_finished(),
                "evaluation_due": self.evaluation_due,
                "best": self.best,
                "totals": self.ledger.totals.state(),
            }
            self.checkpoint = self.run.save_checkpoint(self.step, self._write_weights, state)
            self.run.prune_checkpoints(self.config.save_total_limit, self.best and self.best["step"])
        self.last_saved = self.step
        self.throughput.go_on()

    def _write_weights(self, folder: Path) -> None:
        self.model.save_pretrained(folder, save_embedding_layers=False)
        write_checkpoint_card(folder, self.run.folder)
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER_FILE)

    def _summary(self, step: int, total_steps: int, stopped_by: int | None) -> TrainingSummary:
        best = None
        if self.is_main and self.checkpoint is not None:
            self.best = read_state(self.checkpoint)["best"]
            best = self.best and self.run.checkpoint_path(self.best["step"])
        finished = self.finished or self._is_finished()
        return TrainingSummary(step, total_steps, finished, stopped_by, self.checkpoint, best)


def _seed(*numbers: int) -> int:
    """A seed of 63 bits that differs for every tuple of numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Returns its exit status: 0 for a finished run, 128 + N for one that signal N stopped."""
    rank = int(os.environ.get("RANK", 0))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logger.setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it prints by itself; ours would print it again
    # PEFT still asks transformers by the older name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    try:
        configs = parse_arguments(sys.argv[1:] if arguments is None else arguments, __doc__)
        summary = ArabicVoiceCloningDistributedTrainer(*configs).train()
    except (InputError, ModelCompatibilityError, NonFiniteLossError) as error:
        _report(rank, str(error))
        return 1
    except torch.OutOfMemoryError as error:
        _report(rank, f"out of GPU memory ({error}).\n{_memory_advice(configs[0])}")
        return 1
    except KeyboardInterrupt:
        _report(rank, "interrupted before the first step; clips that were encoded stay in the cache")
        return 130
    finally:
        if dist.is_initialized() and sys.exc_info()[0] is None:
            dist.destroy_process_group()
    if rank == 0:
        print(_closing_words(summary))
    return 0 if summary.stopped_by is None else 128 + summary.stopped_by


def _report(rank: int, message: str) -> None:
    """Tell the user. All processes fail alike for a wrong input: then the first one's word is enough."""
    if rank > 0:
        time.sleep(SECONDS_FOR_RANK_0_TO_SPEAK)  # torchrun ends this process meanwhile if rank 0 failed too
    print(f"error on rank {rank}: {message}" if "RANK" in os.environ else f"error: {message}", file=sys.stderr)


def _memory_advice(config: DistributedTrainingConfig) -> str:
    """Which flag to set to what, so that the next try fits."""
    advice = []
    if config.batch_size is not None:
        advice.append(f"--batch_size {max(1, config.batch_size // 2)}")
    else:
        advice.append(f"--max_tokens_per_batch {max(1, config.max_tokens_per_batch // 2)}")
    advice[0] += f" --gradient_accumulation_steps {2 * config.gradient_accumulation_steps} (the same optimizer step)"
    if not config.gradient_checkpointing:
        advice.append("--gradient_checkpointing (far less memory, more time)")
    return "Try: " + "; or ".join(advice)


def _closing_words(summary: TrainingSummary) -> str:
    lines = []
    if summary.finished:
        lines.append(f"finished: {summary.step} steps")
    else:
        lines.append(f"stopped at step {summary.step} of {summary.total_steps}; the same command goes on from there")
    if summary.checkpoint is not None:
        lines.append(f"adapter: {summary.checkpoint}")
    if summary.best_checkpoint is not None:
        lines.append(f"best by evaluation loss: {summary.best_checkpoint}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
