"""Compares steps after a resume with the same steps without one, at the released model's size on a GPU.

    python -m benchmarks.gpu_resume [--samples 4 --each 512 --layers 28]

Three steps are taken, adapter and optimizer are saved, and three more steps follow. Then what was saved is loaded into
a new optimizer, and the same three steps are taken again. The result says how long a step takes before and after, at
which lines a step waits for the device, and whether all trained weights are equal to the last bit. That is asked twice:
with torch's usual algorithms, and with ``torch.use_deterministic_algorithms``. Samples, text and adapter are those of
``full_size_step``. Under the null device nothing is timed or compared.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, HiggsAudioBatchInput
from benchmarks.device_measures import leave, noted_waits, open_device, print_result, seconds_of
from benchmarks.released_size import TrainerStep, add_adapter, build_base, build_sample, build_step
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.training.fused_layers import RECOMPUTE

TEXT, REFERENCE = 110, 134
STEPS_BEFORE, STEPS_AFTER = 3, 3


@dataclass(frozen=True)
class Steps:
    """What some steps left.

    Attributes:
        weights: copies of the trained parameters.
        milliseconds: the median of a step.
        waits: the lines at which the last step waited for the device.
    """

    weights: list[Tensor]
    milliseconds: float
    waits: dict[str, int]


def take_steps(step: TrainerStep, batches: list[HiggsAudioBatchInput], first: int, number: int) -> Steps:
    """Take so many steps, the first of which has this number; each has its own batch."""
    seconds = [seconds_of(lambda n=n: step.run(n, [batches[n]])) for n in range(first, first + number - 1)]
    with noted_waits() as waits:
        step.run(first + number - 1, [batches[first + number - 1]])
    weights = [parameter.detach().clone() for parameter in step.trainable]
    return Steps(weights, round(1e3 * statistics.median(seconds), 1), dict(waits))


def compare(model: PeftModel, batches: list[HiggsAudioBatchInput], folder: Path) -> dict[str, Any]:
    """Take the same steps without and with a resume, from the adapter as it is."""
    step = build_step(model)
    saved = take_steps(step, batches, 0, STEPS_BEFORE).weights
    step.optimizer.save(folder)
    straight = take_steps(step, batches, STEPS_BEFORE, STEPS_AFTER)
    with torch.no_grad():
        for parameter, weight in zip(step.trainable, saved, strict=True):
            parameter.copy_(weight)
    resumed_step = build_step(model)
    resumed_step.optimizer.load(folder)
    resumed = take_steps(resumed_step, batches, STEPS_BEFORE, STEPS_AFTER)
    pairs = list(zip(straight.weights, resumed.weights, strict=True))
    return {
        "ms_per_step": {"before": straight.milliseconds, "after": resumed.milliseconds},
        "waits": {"before": straight.waits, "after": resumed.waits},
        "equal_to_the_last_bit": all(torch.equal(one, other) for one, other in pairs),
        "largest_difference": max(float((one - other).abs().max()) for one, other in pairs),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print two results as JSON: with torch's usual algorithms, and with deterministic ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4, help="Samples of a step.")
    parser.add_argument("--each", type=int, default=512, help="Positions of each sample; at least 300.")
    parser.add_argument("--layers", type=int, default=28, help="Layers of the model.")
    parser.add_argument("--recompute", default="none", choices=RECOMPUTE, help="What is computed twice.")
    args = parser.parse_args(arguments)
    if min(args.samples, args.layers) < 1 or args.each < 300:
        parser.error("--samples and --layers must be at least 1, and --each at least 300")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it deterministic products are refused
    _, null_cuda = open_device()
    torch.manual_seed(0)
    base = build_base(args.layers, null_cuda is None, False)
    collate = ArabicVoiceCloningTrainingCollator.from_config(base.config)
    # Shorter and shorter samples: the steps must not be alike, or a step that is repeated or left out would not show.
    batches = [
        collate([build_sample(base.config, TEXT, REFERENCE, args.each - number) for _ in range(args.samples)])
        for number in range(STEPS_BEFORE + STEPS_AFTER)
    ]
    model = add_adapter(base, HiggsAudioLoRATrainingConfig(lora_rank=16), args.recompute)
    for is_deterministic in (False, True):
        torch.use_deterministic_algorithms(is_deterministic)
        with tempfile.TemporaryDirectory() as folder:
            found = compare(model, batches, Path(folder))
        if null_cuda:
            found = {"waits": found["waits"]}
        print_result({**vars(args), "deterministic_algorithms": is_deterministic, **found})
    leave(null_cuda)
    return 0


if __name__ == "__main__":
    sys.exit(main())
