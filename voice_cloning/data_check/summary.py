"""The figures of a check: hours, distributions, characters, and the expected cost of training on the data."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig, usable_template
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.prompt_template import PromptForm, prompt_form
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.data_check.clip_measures import ClipMeasures
from voice_cloning.data_check.corpus_rules import SpeechRate, hours_of_speakers
from voice_cloning.data_check.sample_rules import Measures, positions_of
from voice_cloning.data_check.samples import TRAIN, CheckedSample, characters_of
from voice_cloning.training.activation_memory import BatchShape
from voice_cloning.training.batch_planning import plan_epoch
from voice_cloning.training.config import AUTO, DistributedTrainingConfig
from voice_cloning.training.gpu_cards import CONTEXT_BYTES, GB
from voice_cloning.training.memory_estimate import RELEASED_MODEL, TrainedModel

HISTOGRAM_BINS = 30
GPU_GB = (8, 12, 16, 24, 32, 40, 48, 80, 141)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """The settings that determine steps and memory, under the names of the program's flags."""

    max_tokens_per_batch: int = DistributedTrainingConfig.max_tokens_per_batch
    max_positions_per_sample: int = ArabicVoiceCloningDatasetConfig.max_positions_per_sample
    gradient_accumulation_steps: int = DistributedTrainingConfig.gradient_accumulation_steps
    num_processes: int = 1
    num_train_epochs: int = DistributedTrainingConfig.num_train_epochs
    recompute: str = DistributedTrainingConfig.recompute
    prompt_style: str = ArabicVoiceCloningDatasetConfig.prompt_style
    prompt_template: str | None = None
    text_normalisation: str = ArabicVoiceCloningDatasetConfig.text_normalisation

    def __post_init__(self) -> None:
        if self.prompt_template is not None:
            object.__setattr__(self, "prompt_template", usable_template(self.prompt_template, self.prompt_style).text())

    @property
    def prompt(self) -> PromptForm:
        """What decides the turns, as in training."""
        return prompt_form(self.prompt_style, self.prompt_template)

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
    fullest = [trained[i] for i in steps.micro_batches.fullest]
    found = [measures[clip] for clip in dict.fromkeys(used.clip for s in samples for used in s.clips)]
    seconds = sum(m.seconds for m in found if not m.codes)
    return {
        "tokens": sum(sample.tokens for sample in samples),
        "tokens_are_counted": tokens_are_counted,
        "frames": round(seconds * FRAMES_PER_SECOND) + sum(m.codes.frames for m in found if m.codes),
        "positions": {"max": max(lengths, default=0), "mean": round(float(np.mean(lengths)), 1) if lengths else 0},
        "expected_steps": len(steps) * run.num_train_epochs,
        "memory_class": memory_class(fullest, run.recompute),
    }


def memory_class(lengths: Sequence[int], recompute: str, config: HiggsAudioConfig = RELEASED_MODEL) -> str:
    """Return in words the smallest GPU that is expected to hold a micro-batch, with the default adapter in bf16.

    Args:
        lengths: positions of each sample of the micro-batch.
        recompute: the flag. ``auto`` gives the size for each level.
        config: of the model; by default the released one.
    """
    model = TrainedModel(config, HiggsAudioLoRATrainingConfig(), torch.bfloat16)
    shape = BatchShape(tuple(lengths), *[sum(lengths)] * 3)
    levels = model.levels if recompute == AUTO else (recompute,)
    found = [f"{_smallest_gpu(model.memory(shape, level).needed)} with --recompute {level}" for level in levels]
    return f"{'; '.join(found)} ({shape.positions} positions in the fullest micro-batch; estimated)"


def _smallest_gpu(needed: int) -> str:
    fitting = [size for size in GPU_GB if needed + CONTEXT_BYTES <= size * GB]
    size = f"{fitting[0]} GB" if fitting else f"more than {GPU_GB[-1]} GB"
    return f"{size} (needs {(needed + CONTEXT_BYTES) / GB:.1f})"
