"""The figures of a check: hours, distributions, characters, and the expected cost of training on the data."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.constants import FRAMES_PER_SECOND
from voice_cloning.data_check.clip_measures import ClipMeasures
from voice_cloning.data_check.corpus_rules import SpeechRate, hours_of_speakers
from voice_cloning.data_check.sample_rules import Measures, positions_of
from voice_cloning.data_check.samples import TRAIN, CheckedSample, characters_of
from voice_cloning.training.batch_planning import plan_epoch
from voice_cloning.training.config import DistributedTrainingConfig

HISTOGRAM_BINS = 30
WEIGHT_GB = 11.54
"""Memory of the released model's weights in bf16."""
LAYERS = 28
POSITION_KB = {False: 197.2, True: 6.1}
"""Memory for the backward pass per layer and position, without and with gradient checkpointing. Measured as the tensors
that autograd saves in a bf16 layer of the release's size, with adapters on attention and both FFNs; not on a GPU."""
OTHER_GB = 1.5
"""Memory of the adapter, the optimizer, the heads and the unused part of the allocator's blocks."""
GPU_GB = (16, 24, 32, 40, 48, 80, 141)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """The settings that determine steps and memory, under the names of the program's flags."""

    max_tokens_per_batch: int = DistributedTrainingConfig.max_tokens_per_batch
    max_positions_per_sample: int = ArabicVoiceCloningDatasetConfig.max_positions_per_sample
    gradient_accumulation_steps: int = DistributedTrainingConfig.gradient_accumulation_steps
    num_processes: int = 1
    num_train_epochs: int = DistributedTrainingConfig.num_train_epochs
    gradient_checkpointing: bool = DistributedTrainingConfig.gradient_checkpointing
    prompt_style: str = ArabicVoiceCloningDatasetConfig.prompt_style
    text_normalisation: str = ArabicVoiceCloningDatasetConfig.text_normalisation

    @property
    def longest_sample(self) -> int:
        """The largest number of positions that a sample may have."""
        return min(self.max_positions_per_sample, self.max_tokens_per_batch)


def summarise(
    samples: Sequence[CheckedSample],
    measures: Measures,
    rates: Sequence[SpeechRate],
    run: PlannedRun,
    tokens_are_counted: bool,
) -> dict[str, Any]:
    """Return the ``summary`` of report.json."""
    targets = {used.clip: measures[used.clip] for s in samples for used in s.targets}
    references = {used.clip: measures[used.clip] for s in samples for used in s.references}
    clips = [m for m in (targets | references).values() if m.seconds and m.is_heard]
    speakers = hours_of_speakers(samples, measures)
    return {
        "files": [_file(path, samples, measures) for path in dict.fromkeys(s.path for s in samples)],
        "hours": sum(m.seconds for m in targets.values()) / 3600,
        "clips": len(targets | references),
        "speakers": [{"name": name, "hours": hours, "clips": n} for name, (hours, n) in speakers.items()],
        "native_rates": {str(rate): count for rate, count in sorted(Counter(m.sampling_rate for m in clips).items())},
        "histograms": _histograms(rates, targets.values(), references.values(), clips),
        "characters": characters_of(samples),
        **_training(samples, measures, run, tokens_are_counted),
        "settings": vars(run).copy(),
    }


def _file(path: Any, samples: Sequence[CheckedSample], measures: Measures) -> dict[str, Any]:
    own = [sample for sample in samples if sample.path == path]
    seconds = {used.clip: measures[used.clip].seconds for s in own for used in s.targets}
    return {"path": str(path), "side": own[0].side, "samples": len(own), "hours": sum(seconds.values()) / 3600}


def _histograms(
    rates: Sequence[SpeechRate],
    targets: Iterable[ClipMeasures],
    references: Iterable[ClipMeasures],
    clips: Sequence[ClipMeasures],
) -> dict[str, Any]:
    values = {
        "target_seconds": [m.seconds for m in targets if m.seconds],
        "reference_seconds": [m.seconds for m in references if m.seconds],
        "pitch_hz": [m.pitch_hz for m in clips if m.pitch_hz is not None],
        "characters_per_second": list({rate.used.clip: rate.letters_per_second for rate in rates}.values()),
        "peak_dbfs": [m.peak_dbfs for m in clips],
        "level_dbfs": [m.active_dbfs for m in clips],
        "silence_share": [m.silence_share for m in clips],
    }
    return {name: _histogram(found) for name, found in values.items()}


def _histogram(values: Sequence[float]) -> dict[str, Any]:
    counts, edges = np.histogram(values, HISTOGRAM_BINS) if values else ([0], [0.0, 1.0])
    median = float(np.median(values)) if values else None
    return {"edges": [float(e) for e in edges], "counts": [int(c) for c in counts], "median": median}


def _training(
    samples: Sequence[CheckedSample], measures: Measures, run: PlannedRun, tokens_are_counted: bool
) -> dict[str, Any]:
    """Return tokens, frames and positions, and the steps and memory that training takes with these settings.

    Steps and memory leave out samples with an error of their own, and samples over the limit.
    """
    sound = [s for s in samples if not s.problems and not any(measures[used.clip].problems for used in s.clips)]
    lengths = [positions_of(sample, measures) for sample in sound]
    trained = [
        length
        for sample, length in zip(sound, lengths, strict=True)
        if sample.side == TRAIN and length <= run.longest_sample
    ]
    steps = plan_epoch(
        trained,
        max_tokens_per_batch=run.max_tokens_per_batch,
        batch_size=None,
        world_size=run.num_processes,
        gradient_accumulation_steps=run.gradient_accumulation_steps,
        seed=DistributedTrainingConfig.seed,
        epoch=0,
    )
    fullest = max((sum(trained[i] for i in batch) for step in steps for row in step for batch in row), default=0)
    found = [measures[clip] for clip in dict.fromkeys(used.clip for s in samples for used in s.clips)]
    seconds = sum(m.seconds for m in found if not m.codes)
    return {
        "tokens": sum(sample.tokens for sample in samples),
        "tokens_are_counted": tokens_are_counted,
        "frames": round(seconds * FRAMES_PER_SECOND) + sum(m.codes.frames for m in found if m.codes),
        "positions": {"max": max(lengths, default=0), "mean": round(float(np.mean(lengths)), 1) if lengths else 0},
        "expected_steps": len(steps) * run.num_train_epochs,
        "memory_class": memory_class(fullest, run.gradient_checkpointing),
    }


def memory_class(positions: int, gradient_checkpointing: bool) -> str:
    """Return in words the smallest GPU that is expected to hold a micro-batch of ``positions``."""
    need = WEIGHT_GB + OTHER_GB + positions * LAYERS * POSITION_KB[gradient_checkpointing] / 1e6
    fitting = [size for size in GPU_GB if need <= 0.95 * size]
    size = f"{fitting[0]} GB" if fitting else f"more than {GPU_GB[-1]} GB"
    return f"{size} (about {need:.0f} GB at {positions} positions, estimated, not measured)"
