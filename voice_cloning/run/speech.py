"""Set up the speech of a run: which evaluation samples are spoken, how many at once, and where clips are written."""

import logging
from pathlib import Path

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.process_group import Ranks
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.evaluation.asked_samples import ask_samples
from voice_cloning.evaluation.sample_sounds import SampleSounds
from voice_cloning.evaluation.training_speech import TrainingSpeech
from voice_cloning.run.components import Placement
from voice_cloning.run.data import RunData
from voice_cloning.run.memory_flags import smallest_card
from voice_cloning.training.activation_memory import BatchShape
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.memory_estimate import BUDGET_STEP, FRAGMENTATION, TrainedModel
from voice_cloning.training.sample_files import SAMPLES_FOLDER

logger = logging.getLogger(__name__)

CACHE_PER_MICRO_BATCH = 4
"""The most positions of the key-value cache of a batch, as a multiple of ``--max_tokens_per_batch``."""
CACHE_GROWTH = 2.5
"""What the cache takes at most, as a multiple of its positions. It grows by doubling, and meanwhile half of what it had
before exists too."""


def make_speech(
    data: RunData,
    config: DistributedTrainingConfig,
    dataset_config: ArabicVoiceCloningDatasetConfig,
    lora_config: HiggsAudioLoRATrainingConfig,
    placement: Placement,
    ranks: Ranks,
) -> TrainingSpeech | None:
    """Return what speaks evaluation samples during training, or None if nothing is to be spoken.

    What will be spoken is logged. On the main process the codec is loaded if clips are to be heard.

    Raises:
        InputError: on every process, if the codec is damaged.
    """
    if not config.speaks:
        return None
    if not data.model_config.use_delay_pattern:
        if ranks.is_main:
            logger.warning("no sample is spoken: config.json has use_delay_pattern false; such a model cannot speak")
        return None
    asked = ask_samples(data.eval_dataset, dataset_config, data.model_config, config.num_scored_samples, config.seed)
    heard, sounds = min(config.num_samples, len(asked)), None
    with ranks.failing_together():
        if ranks.is_main:
            if heard and data.codec.is_whole:
                sounds = SampleSounds(data.codec.folder, Path(config.output_dir), placement.device)
            logger.info("%s", _speech_line(data, config, len(asked), heard))
    budget = CACHE_PER_MICRO_BATCH * config.max_tokens_per_batch
    if placement.device.type == "cuda":
        model = TrainedModel(data.model_config, lora_config, placement.dtype, config.quantise)
        budget = min(budget, positions_that_fit(model, smallest_card(ranks, placement.device).available))
    where = placement.device, placement.dtype
    return TrainingSpeech(data.eval_dataset, data.collator, asked, heard, sounds, budget, *where, ranks)


def cache_bytes(model: TrainedModel) -> int:
    """Return the bytes of one position in the key-value cache: 115 kB for the released model in bfloat16."""
    text = model.config.text_config
    return 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * model.dtype.itemsize


def positions_that_fit(model: TrainedModel, available: int) -> int:
    """Return how many positions of a key-value cache fit beside what lasts from step to step; at least 1.

    While samples are spoken, nothing else of a step is in memory.

    Args:
        model: gives the memory that lasts, and the size of the cache.
        available: bytes that the allocator can get.
    """
    lasting = model.memory(BatchShape.full_of(BUDGET_STEP, BUDGET_STEP), model.levels[-1]).lasting
    room = available / (1 + FRAGMENTATION) - lasting
    return max(1, int(room / (CACHE_GROWTH * cache_bytes(model))))


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
