"""Set up the speech of a run: which evaluation samples are spoken, how many at once, and where clips are written."""

import logging
from pathlib import Path

import torch

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.errors import raise_if_any
from boson_multimodal.process_group import Ranks
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.evaluation.asked_samples import ask_samples
from voice_cloning.evaluation.recognisers import RecogniserInFolder, find_recogniser
from voice_cloning.evaluation.sample_sounds import SampleSounds
from voice_cloning.evaluation.training_speech import TrainingSpeech
from voice_cloning.run.components import Placement
from voice_cloning.run.data import RunData
from voice_cloning.run.heard_memory import HeardMemory
from voice_cloning.run.memory_flags import smallest_card
from voice_cloning.training.activation_memory import BatchShape
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.evaluation_config import BY_LOSS, FEWEST_SCORED
from voice_cloning.training.memory_estimate import BUDGET_STEP, FRAGMENTATION, TrainedModel
from voice_cloning.training.sample_files import SAMPLES_FOLDER

logger = logging.getLogger(__name__)

CACHE_PER_MICRO_BATCH = 4
"""The most positions of the key-value cache of a batch, as a multiple of ``--max_tokens_per_batch``."""
CACHE_GROWTH = 2.5
"""What the cache takes at most, as a multiple of its positions. It grows by doubling, and meanwhile half of what it had
before exists too."""


def find_recogniser_of(
    config: DistributedTrainingConfig, data: RunData, device: torch.device, ranks: Ranks
) -> RecogniserInFolder | None:
    """Return the recogniser of ``--asr``, checked but without its weights, or None.

    Raises:
        InputError: on every process, if it cannot be used, or for the reasons of :func:`require_speech`.
    """
    require_speech(config, data)
    recogniser = None
    with ranks.failing_together():
        if config.asr is not None:
            recogniser = find_recogniser(config.asr, config.asr_revision, device)
    return recogniser


def require_speech(config: DistributedTrainingConfig, data: RunData) -> None:
    """Check that the data and the model allow the speech that ``--keep_best_by`` and ``--asr`` need.

    Raises:
        InputError: if there are too few samples, no codec to hear them with, or a model that cannot speak.
    """
    problems = []
    scored = 0 if data.eval_dataset is None else min(config.num_scored_samples, len(data.eval_dataset))
    if config.keep_best_by != BY_LOSS and scored < FEWEST_SCORED:
        problems.append(
            f"--keep_best_by {config.keep_best_by}: --eval_data_path {config.eval_data_path} has {scored} samples; "
            f"fewer than {FEWEST_SCORED} cannot decide; give more, or --keep_best_by {BY_LOSS}"
        )
    if config.asr is not None and not data.codec.is_whole:
        problems.append(
            f"--asr {config.asr}: hears waveforms, but --audio_tokenizer_path {config.audio_tokenizer_path} is no "
            "codec with weights on this machine; give the codec that made the codes, or leave --asr out"
        )
    if not data.model_config.use_delay_pattern:
        asked = {"--keep_best_by": config.keep_best_by != BY_LOSS, "--asr": config.asr is not None}
        problems += [
            f"{name}: needs spoken samples, and config.json of the model has use_delay_pattern false; such a model "
            "cannot speak; leave the flag out"
            for name, is_given in asked.items()
            if is_given
        ]
    raise_if_any("the evaluations cannot speak as asked", problems)


def make_speech(
    data: RunData,
    config: DistributedTrainingConfig,
    dataset_config: ArabicVoiceCloningDatasetConfig,
    lora_config: HiggsAudioLoRATrainingConfig,
    ranks: Ranks,
    placement: Placement,
    recogniser: RecogniserInFolder | None = None,
) -> TrainingSpeech | None:
    """Return what speaks evaluation samples during training, or None if nothing is to be spoken.

    What will be spoken is logged. On the main process the codec is loaded if clips are to be heard; on each process if
    a recogniser is to hear them, whose weights are loaded here.

    Raises:
        InputError: on every process, if the codec or the recogniser is damaged.
    """
    if not config.speaks:
        return None
    if not data.model_config.use_delay_pattern:
        if ranks.is_main:
            logger.warning("no sample is spoken: config.json has use_delay_pattern false; such a model cannot speak")
        return None
    asked = ask_samples(data.eval_dataset, data.model_config, config.num_scored_samples, config.seed)
    model, available = TrainedModel(data.model_config, lora_config, placement.dtype, config.quantise), None
    if placement.device.type == "cuda":
        # The recogniser has not taken its part yet.
        beside = HeardMemory.of_run(config, data, recogniser).recogniser
        available = smallest_card(ranks, placement.device).available - beside
    budget = cache_budget(config, model, available)
    heard, sounds = min(config.num_samples, len(asked)), None
    with ranks.failing_together():
        if recogniser is not None or (ranks.is_main and heard and data.codec.is_whole):
            sounds = SampleSounds(data.codec.folder, placement.device)
        if recogniser is not None:
            recogniser.load()
        if ranks.is_main:
            logger.info("%s", _speech_line(data, config, len(asked), heard))
    where = placement.device, placement.dtype
    return TrainingSpeech(data.eval_dataset, data.collator, asked, heard, sounds, budget, *where, ranks, recogniser)


def cache_bytes(model: TrainedModel) -> int:
    """Return the bytes of one position in the key-value cache: 115 kB for the released model in bfloat16."""
    text = model.config.text_config
    return 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * model.dtype.itemsize


def cache_budget(config: DistributedTrainingConfig, model: TrainedModel, available: int | None) -> int:
    """Return the positions that the key-value cache of a batch may have.

    Args:
        model: the model of the run.
        available: bytes that the allocator can get of a GPU; None for a CPU.
    """
    budget = CACHE_PER_MICRO_BATCH * config.max_tokens_per_batch
    return budget if available is None else min(budget, positions_that_fit(model, available))


def positions_that_fit(model: TrainedModel, available: int) -> int:
    """Return how many positions of a key-value cache fit beside what lasts from step to step; at least 1.

    While samples are spoken, nothing else of a step is in memory.

    Args:
        model: gives the memory that lasts, and the size of the cache.
        available: bytes that the allocator can get.
    """
    room = available / (1 + FRAGMENTATION) - lasting_bytes(model)
    return max(1, int(room / (CACHE_GROWTH * cache_bytes(model))))


def lasting_bytes(model: TrainedModel) -> int:
    """Return the bytes of what lasts from step to step."""
    return model.memory(BatchShape.full_of(BUDGET_STEP, BUDGET_STEP), model.levels[-1]).lasting


def _speech_line(data: RunData, config: DistributedTrainingConfig, asked: int, heard: int) -> str:
    """Return one line about the speech of a run."""
    when = "at every evaluation" if config.sample_every is None else f"every {config.sample_every} steps and at the end"
    line = f"speech: {asked} of {len(data.eval_dataset)} evaluation samples are spoken {when}"
    if heard == 0:
        return line
    if data.codec.is_whole:
        return f"{line}; {heard} of them are written to {Path(config.output_dir) / SAMPLES_FOLDER}"
    return (
        f"{line}; no WAV is written, because --audio_tokenizer_path {config.audio_tokenizer_path} is no codec with "
        "weights on this machine. The figures do not need it"
    )
