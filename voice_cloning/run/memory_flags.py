"""Choose what ``--recompute auto`` and ``--max_tokens_per_batch auto`` stand for, before a run has an identity."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.process_group import Ranks
from boson_multimodal.sample_dataset import SampleDataset
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.evaluation.recognisers import RecogniserInFolder
from voice_cloning.run.components import Placement
from voice_cloning.run.data import RunData
from voice_cloning.run.heard_memory import HeardMemory
from voice_cloning.training.activation_memory import BatchShape
from voice_cloning.training.batch_planning import TrainingPlan
from voice_cloning.training.config import AUTO, DistributedTrainingConfig
from voice_cloning.training.epoch_samples import epoch_samples
from voice_cloning.training.gpu_cards import GB, GpuCard, present_card
from voice_cloning.training.memory_estimate import BUDGET_STEP, TrainedModel

logger = logging.getLogger(__name__)

REMEDIES = "--recompute layer, --quantise nf4, a smaller --lora_rank, or a larger GPU"
DEFAULT_BUDGET: int = DistributedTrainingConfig.max_tokens_per_batch


def settle_memory_flags(
    config: DistributedTrainingConfig,
    lora: HiggsAudioLoRATrainingConfig,
    data: RunData,
    ranks: Ranks,
    placement: Placement,
    recogniser: RecogniserInFolder | None = None,
) -> DistributedTrainingConfig:
    """Return the configuration with values in the place of ``auto``. Rank 0 chooses, for the smallest GPU of all ranks.

    On a CPU nothing has to fit: recompute is none, and the number of positions is its default. A recogniser, which is
    not loaded yet, stays on the GPU beside the steps.

    Raises:
        InputError: on every rank, if the recogniser's files are damaged, or if samples are longer than the largest
            micro-batch that fits. It lists the samples.
    """
    if AUTO not in (config.recompute, config.max_tokens_per_batch):
        return config
    available, heard = None, HeardMemory()
    if placement.device.type == "cuda":
        heard = HeardMemory.of_run(config, data, recogniser)
        available = smallest_card(ranks, placement.device).available - heard.recogniser
    chosen = config
    with ranks.failing_together():
        if ranks.is_main:
            model = TrainedModel(data.model_config, lora, placement.dtype, config.quantise)
            chosen = choose_memory_flags(config, model, data.datasets, ranks.world_size, available)
            log_choice(config, chosen, available, heard)
    recompute, positions = ranks.broadcast_object((chosen.recompute, chosen.max_tokens_per_batch))
    return replace(config, recompute=recompute, max_tokens_per_batch=positions)


def smallest_card(ranks: Ranks, device: torch.device) -> GpuCard:
    """Return the GPU, among those of all ranks, of which tensors can have least."""
    return min(ranks.gather(present_card(device)), key=lambda card: card.available)


def choose_memory_flags(
    config: DistributedTrainingConfig,
    model: TrainedModel,
    datasets: Sequence[SampleDataset],
    world_size: int,
    available: int | None,
) -> DistributedTrainingConfig:
    """Return the configuration with values in the place of ``auto``.

    Args:
        datasets: the training data, and the evaluation data if there are any.
        available: bytes that the allocator can get of a GPU; None for a CPU.

    Raises:
        InputError: if samples are longer than the largest micro-batch that fits. It lists the samples.
    """
    if config.max_tokens_per_batch == AUTO:
        longest = max(dataset.longest for dataset in datasets)
        per_step = world_size * config.gradient_accumulation_steps
        budget = _budget(config, model, longest, available)
        if budget == 0:
            raise InputError(_nothing_fits(config, model, available))
        # More than this share of an epoch would leave processes without a micro-batch.
        share = max(longest, -(-_positions_of_epoch(datasets[0], config.seed) // per_step))
        config = replace(config, max_tokens_per_batch=min(budget, share))
        _require_fit(datasets, config.max_tokens_per_batch)
    if config.recompute == AUTO:
        level: str | None = "none"
        if available is not None:
            train = datasets[0]
            plan = TrainingPlan(epoch_samples(train, config.seed, expected=True), config, world_size)
            level = model.cheapest_recompute(available, fullest_shape(train, plan)) or model.levels[-1]
        config = replace(config, recompute=level)
    return config


def _positions_of_epoch(dataset: SampleDataset, seed: int) -> int:
    """Return the positions of all samples of the first epoch."""
    samples = epoch_samples(dataset, seed, expected=True)
    return int(samples.lengths(0)[samples.taken(0)].sum(dtype=np.int64))


def _budget(config: DistributedTrainingConfig, model: TrainedModel, longest: int, available: int | None) -> int:
    """Return the positions of ``--max_tokens_per_batch auto``.

    If recompute is ``auto`` too, its first level that holds the default number and the longest sample decides, because
    a level more costs more time than a larger micro-batch saves.
    """
    least = max(DEFAULT_BUDGET, longest)
    if available is None:
        return least
    levels = model.levels if config.recompute == AUTO else (config.recompute,)
    found = [model.largest_budget(available, level, longest) for level in levels]
    return next((budget for budget in found if budget >= least), found[-1])


def _nothing_fits(config: DistributedTrainingConfig, model: TrainedModel, available: int) -> str:
    level = model.levels[-1] if config.recompute == AUTO else config.recompute
    least = model.memory(BatchShape.full_of(BUDGET_STEP, BUDGET_STEP), level).needed
    return (
        f"--max_tokens_per_batch auto: {BUDGET_STEP} positions need {least / GB:.1f} GB with --recompute {level}, and "
        f"the GPU has {available / GB:.1f} GB for them. Take {REMEDIES}"
    )


def _require_fit(datasets: Sequence[SampleDataset], budget: int) -> None:
    problems = [
        f"{dataset.place(index)}: is {dataset.sizes.positions[index]} positions long"
        for dataset in datasets
        for index in np.flatnonzero(dataset.sizes.positions > budget).tolist()
    ]
    raise_if_any(
        f"--max_tokens_per_batch auto: the GPU holds micro-batches of {budget} positions. Cut the clips of these "
        f"samples, or take {REMEDIES}",
        problems,
    )
    raise_if_any(
        f"--max_tokens_per_batch auto: the GPU holds micro-batches of {budget} positions, and with references of up to "
        f"10 s samples may be longer. Give --max_positions_per_sample {budget}, so that only what fits is drawn, or "
        f"take {REMEDIES}",
        [f"{d.data_path}: up to {d.longest} positions" for d in datasets if d.longest > budget],
    )


def fullest_shape(dataset: SampleDataset, plan: TrainingPlan) -> BatchShape:
    """Return the shape of the plan's fullest micro-batch."""
    epoch, micro_batch = plan.fullest()
    return shape_of(dataset.of_epoch(epoch), micro_batch)


def shape_of(dataset: SampleDataset, micro_batch: Sequence[int]) -> BatchShape:
    """Return what the memory of a micro-batch depends on. Its clips need not be encoded."""
    sizes = dataset.sizes[micro_batch]
    lengths = tuple(sizes.positions.tolist())
    audio = sum(lengths) - int(sizes.text_positions.sum())
    return BatchShape(lengths, audio, int(sizes.text_labels.sum()), audio)


def log_choice(
    was: DistributedTrainingConfig,
    chosen: DistributedTrainingConfig,
    available: int | None,
    heard: HeardMemory,
) -> None:
    """Log what was chosen, and for which memory.

    Args:
        available: bytes that the allocator can get of a GPU for steps; None for a CPU.
        heard: what those who hear take besides.
    """
    names = [name for name in ("recompute", "max_tokens_per_batch") if getattr(was, name) == AUTO]
    flags = " ".join(f"--{name} {getattr(chosen, name)}" for name in names)
    if available is None:
        reason = "on a CPU, where no GPU has to hold it"
    else:
        beside = f", beside {heard.recogniser / GB:.1f} GB for the recogniser of --asr" if heard.recogniser else ""
        reason = f"for {available / GB:.1f} GB of GPU memory{beside}"
    logger.info("auto is %s, %s", flags, reason)
