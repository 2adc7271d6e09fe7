"""Say what a run will take, in memory and time, without loading a weight or writing a file (``--dry_run``)."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import torch

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.checkpoints import CONFIG_FILES, is_hub_id, local_checkpoint, resolve_checkpoint
from boson_multimodal.device import pick_device, resolve_dtype
from boson_multimodal.errors import InputError
from boson_multimodal.process_group import Ranks
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.evaluation.recognisers import RecogniserInFolder
from voice_cloning.run.data import RunData, load_run_data
from voice_cloning.run.data_licences import commercial_use_lines
from voice_cloning.run.heard_memory import HeardMemory
from voice_cloning.run.memory_flags import choose_memory_flags, fullest_shape, shape_of, smallest_card
from voice_cloning.run.speech import (
    CACHE_GROWTH,
    cache_budget,
    cache_bytes,
    find_recogniser_of,
    lasting_bytes,
    require_speech,
)
from voice_cloning.training.activation_memory import BatchShape
from voice_cloning.training.batch_planning import TrainingPlan
from voice_cloning.training.config import AUTO, DistributedTrainingConfig
from voice_cloning.training.data import check_data_files
from voice_cloning.training.epoch_samples import epoch_samples
from voice_cloning.training.gpu_cards import CONTEXT_BYTES, GB, GpuCard, named_card
from voice_cloning.training.joined_dataset import JoinedDataset
from voice_cloning.training.memory_estimate import FRAGMENTATION, MemoryEstimate, TrainedModel
from voice_cloning.training.memory_table import CARD_SIZES, table_rows
from voice_cloning.training.time_estimate import (
    ASSUMED_SHARE,
    base_kl_flops,
    forward_flops,
    head_flops,
    seconds_on,
    training_flops,
)

NO_CARD = "no GPU in this machine, and no --gpu: what fits on cards of common sizes"
UNKNOWN_TFLOPS = 100.0
"""The peak of the card that the time is given for if the card's own peak is not known."""


def dry_run(
    config: DistributedTrainingConfig,
    dataset_config: ArabicVoiceCloningDatasetConfig,
    lora_config: HiggsAudioLoRATrainingConfig,
) -> int:
    """Check the flags and the data, and print on the main process what the run will take. Return the exit status 0.

    Raises:
        InputError: if an input is wrong, or if the longest sample does not fit the card.
    """
    card = None if config.gpu is None else named_card(config.gpu)
    check_data_files(config)
    ranks = Ranks.join()
    device = pick_device(ranks.local_rank)
    model_folder = resolve_checkpoint(
        config.model_path, config.model_revision, "--model_path", ("tokenizer.json",), CONFIG_FILES
    )
    if card is None and device.type == "cuda":
        card = smallest_card(ranks, device)
    with _cache_that_exists(dataset_config) as readable:
        data = load_run_data(config, readable, model_folder)
        heard = HeardMemory.of_run(config, data, _recogniser_of(config, data, ranks))
        # A card that is named stands for a GPU. Without any card, the table is about GPUs too.
        dtype = resolve_dtype(config.torch_dtype, torch.device("cuda"))
        if card is not None and card.has_bf16 is False and dtype == torch.bfloat16:
            raise InputError(
                f"gpu: {card.name} has no bfloat16, and float16 overflows in this model; give --torch_dtype float32, "
                "which takes 4 bytes a weight, or another card (docs/troubleshooting.md)"
            )
        model = TrainedModel(data.model_config, lora_config, dtype, config.quantise)
        lines = _lines(config, model, data, ranks.world_size, card, heard)
    if ranks.is_main:
        print("\n".join(lines))
    return 0


@contextmanager
def _cache_that_exists(config: ArabicVoiceCloningDatasetConfig) -> Iterator[ArabicVoiceCloningDatasetConfig]:
    """Give a configuration whose cache of codes exists: if it does not, a temporary folder takes its place."""
    if config.codes or Path(config.code_cache_dir).expanduser().is_dir():
        yield config
        return
    with tempfile.TemporaryDirectory() as folder:
        yield replace(config, code_cache_dir=folder)


def _recogniser_of(config: DistributedTrainingConfig, data: RunData, ranks: Ranks) -> RecogniserInFolder | None:
    """Return the recogniser without weights; None without ``--asr``, or if it would have to be fetched from the hub."""
    if config.asr is not None and is_hub_id(config.asr) and local_checkpoint(config.asr, config.asr_revision) is None:
        require_speech(config, data)
        if ranks.is_main:
            print(f"warning: --asr {config.asr} is not on this machine: its memory is not counted", file=sys.stderr)
        return None
    return find_recogniser_of(config, data, torch.device("cpu"), ranks)


def _lines(
    config: DistributedTrainingConfig,
    model: TrainedModel,
    data: RunData,
    world_size: int,
    card: GpuCard | None,
    heard: HeardMemory,
) -> list[str]:
    lines = ["dry run: no weight is loaded, and nothing is written"]
    if card is None:
        return [*lines, *_data_lines(data), *_table_lines(config, model, data, world_size, heard)]
    chosen = choose_memory_flags(config, model, data.datasets, world_size, card.available - heard.recogniser)
    plan = TrainingPlan(epoch_samples(data.train_dataset, chosen.seed, expected=True), chosen, world_size)
    shape = fullest_shape(data.train_dataset, plan)
    return [
        *lines,
        _card_line(card),
        *_data_lines(data),
        *_step_lines(config, chosen, plan, shape, world_size),
        *_memory_lines(model, shape, chosen.recompute, card, heard),
        *_speech_lines(chosen, model, card, heard),
        *_time_lines(chosen, model, data, plan, world_size, card),
    ]


def _card_line(card: GpuCard) -> str:
    return (
        f"card: {card.name}, {card.memory / GB:.1f} GB, of which tensors can have {card.available / GB:.1f} GB "
        f"(about {CONTEXT_BYTES / GB} GB is the CUDA context)"
    )


def _data_lines(data: RunData) -> list[str]:
    """Return a line for each file and folder, and one if a licence forbids commercial use."""
    lines, shares = [], []
    if isinstance(data.train_dataset, JoinedDataset):
        shares = data.train_dataset.shares()
    for dataset, share in zip_longest(data.parts, shares):
        found, lengths = dataset.summary(), dataset.of_epoch(0).sizes.positions
        when = "" if dataset.are_epochs_alike else " in the first epoch"
        name, ending = (found["file"], "") if share is None else (dataset.data_path, f"; {share}")
        lines.append(
            f"{name}: {found['samples']} samples, {found['dropped']} dropped as invalid, {found['hours']:.2f} h; "
            f"{lengths.sum():,} positions{when}, {lengths.max():,} in the longest sample{ending}"
        )
    return lines + commercial_use_lines(data.train_dataset)


def _step_lines(
    was: DistributedTrainingConfig,
    chosen: DistributedTrainingConfig,
    plan: TrainingPlan,
    shape: BatchShape,
    world_size: int,
) -> list[str]:
    size = f"--max_tokens_per_batch {chosen.max_tokens_per_batch}"
    if chosen.batch_size is not None:
        size = f"--batch_size {chosen.batch_size}"
    elif was.max_tokens_per_batch == AUTO:
        size += " (auto)"
    level = f"--recompute {chosen.recompute}" + (" (auto)" if was.recompute == AUTO else "")
    processes = "1 process" if world_size == 1 else f"{world_size} processes"
    return [
        f"{size} {level} --quantise {chosen.quantise}",
        f"{plan.total_steps:,} optimizer steps, {plan.steps_per_epoch:,} in an epoch; {plan.positions_per_step:,.0f} "
        f"positions in a step on average ({processes}, {chosen.gradient_accumulation_steps} micro-batches each)",
        f"the fullest micro-batch: {shape.positions:,} positions in {len(shape.lengths)} samples",
    ]


def _memory_lines(
    model: TrainedModel, shape: BatchShape, recompute: str, card: GpuCard, heard: HeardMemory
) -> list[str]:
    found = model.memory(shape, recompute)
    parts = memory_parts(found) + ([("recogniser of --asr", heard.recogniser)] if heard.recogniser else [])
    others = [level for level in model.levels if level != recompute]
    needs = [f"{one} {(model.memory(shape, one).needed + heard.recogniser) / GB:.2f} GB" for one in others]
    return [
        "memory of its step at the peak, estimated:",
        *_part_lines(parts, found.allocated + heard.recogniser, found.needed + heard.recogniser, card),
        f"with another --recompute: {', '.join(needs)}",
    ]


def _speech_lines(
    config: DistributedTrainingConfig, model: TrainedModel, card: GpuCard, heard: HeardMemory
) -> list[str]:
    """Return the memory at the peak of speech, when nothing of a step is there but what lasts."""
    if not (config.speaks and model.config.use_delay_pattern):
        return []
    positions = cache_budget(config, model, card.available - heard.recogniser)
    lasting, cache = lasting_bytes(model), round(positions * CACHE_GROWTH * cache_bytes(model))
    top = f"key-value cache of {positions:,} positions, at most", cache
    if heard.codec > cache:
        top = "codec, when the cache is gone", heard.codec
    parts = [("what lasts from step to step", lasting), top]
    parts += [("recogniser of --asr", heard.recogniser)] if heard.recogniser else []
    together = sum(size for _, size in parts)
    needed = round((together - heard.recogniser) * (1 + FRAGMENTATION)) + heard.recogniser
    return ["memory while samples are spoken, estimated:", *_part_lines(parts, together, needed, card)]


def _part_lines(parts: Sequence[tuple[str, int]], together: int, needed: int, card: GpuCard) -> list[str]:
    """Return a line for each part in bytes, their sum, and whether the card has what is needed of it."""
    fits = "fits" if needed <= card.available else "does not fit"
    return [
        *(f"  {name:<44} {size / GB:6.2f} GB" for name, size in parts),
        f"  {'together':<44} {together / GB:6.2f} GB; with {100 * FRAGMENTATION:.0f} % for gaps between tensors "
        f"{needed / GB:.2f} GB, which {fits}",
    ]


def memory_parts(found: MemoryEstimate) -> list[tuple[str, int]]:
    """Return the parts of a step's peak with their bytes. They add up to ``found.allocated``."""
    top = "heads (logits of the loss)", found.heads
    if found.layer:
        top = "one layer, for a moment", found.layer
    return [
        ("weights", found.weights),
        ("adapter", found.adapter),
        ("gradients", found.gradients),
        ("optimizer", found.optimizer),
        ("copy from which checkpoints are written", found.copy),
        ("workspace of the products", found.workspace),
        ("activations", found.activations),
        top,
    ]


def _time_lines(
    config: DistributedTrainingConfig,
    model: TrainedModel,
    data: RunData,
    plan: TrainingPlan,
    world_size: int,
    card: GpuCard,
) -> list[str]:
    """Return the operations of the whole run, and the time that they take on this card."""
    samples = epoch_samples(data.train_dataset, config.seed, expected=True)
    train = shape_of(data.train_dataset.of_epoch(0), samples.taken(0))
    flops = training_flops(model, train, config.recompute)
    if config.base_kl_weight:
        flops += config.base_kl_share * base_kl_flops(model, train)
    flops *= plan.total_steps / plan.steps_per_epoch
    if data.eval_dataset is not None:
        held_out = shape_of(data.eval_dataset, range(len(data.eval_dataset)))
        times = -(-plan.total_steps // config.eval_steps)
        flops += times * (forward_flops(model, held_out) + head_flops(model, held_out))
    peak, whose = card.bf16_tflops, f"{card.name}'s peak of {card.bf16_tflops} TFLOP/s in bf16"
    if peak is None:
        peak, whose = UNKNOWN_TFLOPS, f"a peak of {UNKNOWN_TFLOPS:g} TFLOP/s; that of {card.name} is not known here"
    hours = seconds_on(flops, peak) / world_size / 3600
    return [
        f"time: {flops / 1e15:,.1f} PFLOP in all. That is {hours:.2f} h, if each GPU uses {100 * ASSUMED_SHARE:.0f} % "
        f"of {whose}. This share is an assumption: no run of this program on a GPU has confirmed it. Encoding of clips "
        "and writing of checkpoints come on top."
    ]


def _table_lines(
    config: DistributedTrainingConfig, model: TrainedModel, data: RunData, world_size: int, heard: HeardMemory
) -> list[str]:
    """Return what fits on cards of common sizes, with the longest sample of the data."""
    longest = max(dataset.longest for dataset in data.datasets)
    known = config if config.max_tokens_per_batch != AUTO else replace(config, max_tokens_per_batch=longest)
    train = data.train_dataset
    plan = TrainingPlan(epoch_samples(train, config.seed, expected=True), known, world_size)
    shape = fullest_shape(train, plan)
    lines = [f"{NO_CARD} ({FRAGMENTATION:.0%} and {CONTEXT_BYTES / GB} GB are kept free)"]
    lines.append(
        f"  {'card':>6}  {'recompute':<9}  largest --max_tokens_per_batch  the fullest micro-batch of these data"
    )
    for row in table_rows([model], longest, CARD_SIZES):
        need = model.memory(shape, row.recompute).needed
        fits = "fits" if need <= row.available else "does not fit"
        positions = f"{row.positions:,}" if row.positions else "none"
        lines.append(f"  {row.card:>3} GB  {row.recompute:<9}  {positions:>30}  {fits} ({need / GB:.1f} GB)")
    if heard.recogniser:
        lines.append(f"the recogniser of --asr takes {heard.recogniser / GB:.1f} GB more, beside every step")
    what = "the longest sample" if config.max_tokens_per_batch == AUTO else "these flags"
    return [
        *lines,
        f"the fullest micro-batch with {what} has {shape.positions:,} positions in {len(shape.lengths)} samples",
    ]
