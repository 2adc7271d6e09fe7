"""Computes what many GPUs lose by waiting for each other, from what two processes are seen to send.

    OMP_NUM_THREADS=1 python -m benchmarks.scaling [--samples 500000 --positions 8192 --accumulation 1 4]

Measured here: the collectives of two processes (gloo) that train a tiny model, counted call by call, for a run of 10
and one of 30 steps, so that the start and the end cancel; the plan of an epoch for 8, 64 and 512 processes; how evenly
the plan fills the processes. Computed: the bytes of the released model's adapter, and the waits. No GPU and no network
was measured. The assumptions are constants of this module and are printed.

A step of n processes computes as long as the process with the most positions needs. Then the gradients are summed in
one call, which nothing overlaps. A ring all-reduce of S bytes sends 2 (n - 1) / n S bytes over each link, in 2 (n - 1)
hops:

    seconds = 2 (n - 1) / n * S / bytes per second + 2 (n - 1) * seconds of a hop

Inside a machine the link is NVLink. As soon as there are two machines, the link between them decides. NCCL may take a
tree instead, which has fewer hops; so this is the slower of its ways. The host's own small sums run while the device
still computes the step before; they are listed, and count only if they take longer than that.
"""

import argparse
import json
import os
import pickle
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

import arabic_voice_cloning_distributed_trainer as program
from benchmarks.hours_of_data import CODES_FILE, RECORDS_FILE, TORCHRUN, clip_frames, make_data, peak_mb
from lora_config import HiggsAudioLoRATrainingConfig
from tools.demo.model import build_model, build_tokenizer
from voice_cloning.training.activation_memory import BatchShape
from voice_cloning.training.batch_planning import plan_epoch
from voice_cloning.training.gpu_cards import named_card
from voice_cloning.training.memory_estimate import RELEASED_MODEL, TrainedModel
from voice_cloning.training.time_estimate import ASSUMED_SHARE, seconds_on, training_flops

SHORT_RUN, LONG_RUN = 10, 30
"""Steps of the two runs."""
LOGGING_STEPS = 10
COLLECTIVES = ("all_reduce", "broadcast", "broadcast_object_list", "all_gather_object", "barrier")
"""The functions of ``torch.distributed`` that are counted."""
CARD = "H100"
RANKS = (8, 16, 32, 64, 128, 256, 512)
PLANNED_RANKS = (8, 64, 512)
LORA_RANKS = (16, 64)
GPUS_PER_MACHINE = 8
NETWORK_BYTES, NETWORK_HOP = 100e9 / 8, 10e-6
"""Between machines: bytes per second of 100 Gb/s, and an assumed hop."""
NVLINK_BYTES, NVLINK_HOP = 300e9, 3e-6
"""Inside a machine: assumed."""
GLOO_HOP = 30e-6
"""A hop of gloo over TCP between machines: assumed."""
HOST_CALLS = 2
"""Small sums of the host in each step, over gloo's ring: whether to stop, and the numbers of labels."""
SAMPLE = {"positions": 400, "audio": 300, "text_rows": 40, "audio_rows": 150}
"""The sample of which a step's operations are counted: its positions, audio columns, and rows with a label."""


# -- counted collectives -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One kind of call: the function, and the bytes that a process puts in."""

    function: str
    bytes: int


def count_collectives() -> Counter[Call]:
    """Make ``torch.distributed`` count its calls from now on. Return the counter."""
    calls: Counter[Call] = Counter()
    for name in COLLECTIVES:
        setattr(dist, name, _counted(getattr(dist, name), calls))
    return calls


def _counted(function: Callable[..., Any], calls: Counter[Call]) -> Callable[..., Any]:
    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[Call(function.__name__, _bytes_put_in(function.__name__, args))] += 1
        return function(*args, **kwargs)

    return counted


def _bytes_put_in(name: str, args: tuple[Any, ...]) -> int:
    if name in ("all_reduce", "broadcast"):
        return args[0].nbytes
    if name == "barrier":
        return 0
    value = args[1] if name == "all_gather_object" else args[0]
    return len(pickle.dumps(value))


def train_and_count(folder: Path, steps: int) -> None:
    """Train for some steps as one of several processes. Rank 0 writes the calls that it made into the folder."""
    calls = count_collectives()
    flags = {
        "data_path": folder / RECORDS_FILE,
        "codes": folder / CODES_FILE,
        "model_path": folder / "model",
        "output_dir": folder / f"run-{steps}",
        "max_steps": steps,
        "logging_steps": LOGGING_STEPS,
        "save_steps": 1000,
        "report_to": "none",
    }
    status = program.main([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    if status:
        raise SystemExit(status)
    if os.environ["RANK"] == "0":  # the program has left the group
        found = [[call.function, call.bytes, count] for call, count in calls.items()]
        (folder / f"calls-{steps}.json").write_text(json.dumps(found), encoding="utf-8")


def calls_per_step(folder: Path) -> dict[Call, float]:
    """Run both runs in two processes each. Return the calls that a process makes in each step, on average."""
    build_model(folder / "model", build_tokenizer(folder / "model"), seed=0)
    make_data(folder, 64)
    found = {}
    for steps in (SHORT_RUN, LONG_RUN):
        command = [*TORCHRUN, "-m", "benchmarks.scaling", "--count", str(folder), str(steps)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        lines = json.loads((folder / f"calls-{steps}.json").read_text(encoding="utf-8"))
        found[steps] = Counter({Call(function, size): count for function, size, count in lines})
    more = {call: count - found[SHORT_RUN][call] for call, count in found[LONG_RUN].items()}
    return {call: count / (LONG_RUN - SHORT_RUN) for call, count in more.items() if count}


# -- the plan ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanCost:
    """A plan of one epoch.

    Attributes:
        seconds: of CPU time to make it.
        peak_mb: the most memory that Python and numpy take for it, in MB.
        steps: optimizer steps.
        evenness: positions of a process in a step, on average, over those of the fullest process of the step; over all
            steps, the last one with its empty micro-batches too.
    """

    seconds: float
    peak_mb: float
    steps: int
    evenness: float


def plan_cost(lengths: np.ndarray, world_size: int, positions: int, accumulation: int) -> PlanCost:
    """Plan an epoch for a number of processes."""
    make = partial(
        plan_epoch,
        lengths,
        max_tokens_per_batch=positions,
        batch_size=None,
        world_size=world_size,
        gradient_accumulation_steps=accumulation,
        seed=42,
        epoch=0,
    )
    began = time.process_time()
    plan = make()
    seconds = time.process_time() - began
    mean = fullest = 0.0
    for step in plan:
        of_rank = np.zeros(world_size)
        for by_rank in step:
            of_rank += [lengths[list(indices)].sum() if indices else 0 for indices in by_rank]
        mean += of_rank.mean()
        fullest += of_rank.max()
    return PlanCost(seconds, peak_mb(make), len(plan), mean / fullest)


def made_lengths(samples: int) -> np.ndarray:
    """Return the positions of made samples: both clips of ``hours_of_data``, and 100 to 140 text tokens."""
    frames = np.array(clip_frames(samples))
    text = np.random.default_rng(1).integers(100, 141, samples)
    return (frames + np.roll(frames, 1) + text + 18).astype(np.int32)


# -- waits -------------------------------------------------------------------------------------------------------------


def ring_seconds(size: int, ranks: int, bytes_per_second: float, hop: float) -> float:
    """Return the seconds of a ring all-reduce of ``size`` bytes."""
    return 2 * (ranks - 1) / ranks * size / bytes_per_second + 2 * (ranks - 1) * hop


def gradient_seconds(size: int, ranks: int) -> float:
    """Return the seconds in which GPUs sum ``size`` bytes of gradients."""
    if ranks <= GPUS_PER_MACHINE:
        return ring_seconds(size, ranks, NVLINK_BYTES, NVLINK_HOP)
    return ring_seconds(size, ranks, NETWORK_BYTES, NETWORK_HOP)


def released_gradient_bytes(lora_rank: int) -> int:
    """Return the bytes of the released model's gradients: fp32, default targets."""
    lora = HiggsAudioLoRATrainingConfig(lora_rank=lora_rank)
    return 4 * TrainedModel(RELEASED_MODEL, lora, torch.bfloat16).trainable


def assumed_step_seconds(lora_rank: int, positions: int, accumulation: int) -> float:
    """Return how long a process computes in a step, by the operations of the step and an assumed share of the peak."""
    samples = positions // SAMPLE["positions"]
    shape = BatchShape(
        (SAMPLE["positions"],) * samples,
        *(samples * SAMPLE[name] for name in ("audio", "text_rows", "audio_rows")),
    )
    model = TrainedModel(RELEASED_MODEL, HiggsAudioLoRATrainingConfig(lora_rank=lora_rank), torch.bfloat16)
    return accumulation * seconds_on(training_flops(model, shape, "none"), named_card(CARD).bf16_tflops)


def report_plans(lengths: np.ndarray, positions: int, accumulation: int) -> dict[int, float]:
    """Print the cost of the plan for some numbers of processes. Return how even it is for all of them."""
    print(
        f"plan of {len(lengths):,} samples of {lengths.mean():.0f} positions, {accumulation} x {positions:,} in a step"
    )
    evenness = {}
    for ranks in RANKS:
        cost = plan_cost(lengths, ranks, positions, accumulation)
        evenness[ranks] = cost.evenness
        if ranks in PLANNED_RANKS:
            print(
                f"  {ranks:4} processes: {cost.seconds:.2f} s of CPU, {cost.peak_mb:,.0f} MB at its peak, "
                f"{cost.steps:,} steps",
                flush=True,
            )
    return evenness


def report_waits(lora_rank: int, evenness: dict[int, float], positions: int, accumulation: int) -> None:
    """Print the waits of the released model by the number of processes."""
    size, computing = released_gradient_bytes(lora_rank), assumed_step_seconds(lora_rank, positions, accumulation)
    print(
        f"released model, rank {lora_rank}: {size / 1e6:,.0f} MB of gradients; a step of {accumulation} x "
        f"{positions:,} positions computes {1e3 * computing:,.0f} ms (assumed: {100 * ASSUMED_SHARE:.0f} % of the peak "
        f"of an {CARD})"
    )
    print("ranks gradients/ms  host calls/ms    even efficiency  lost by doubling")
    before = None
    for ranks, even in evenness.items():
        gradients = gradient_seconds(size, ranks)
        on_host = HOST_CALLS * ring_seconds(0, ranks, NETWORK_BYTES, GLOO_HOP)
        share = even * computing / (computing + gradients)
        lost = "" if before is None else f"{100 * (1 - share / before):.1f} %"
        waits = f"{ranks:5} {1e3 * gradients:12.1f} {1e3 * on_host:14.1f}"
        print(f"{waits} {100 * even:5.1f} % {100 * share:8.1f} % {lost:>16}", flush=True)
        before = share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=500_000)
    parser.add_argument("--positions", type=int, default=8192, help="Of a micro-batch.")
    parser.add_argument("--accumulation", type=int, nargs="+", default=[1, 4], help="Micro-batches of a process.")
    parser.add_argument("--count", nargs=2, metavar=("FOLDER", "STEPS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count:
        return train_and_count(Path(args.count[0]), int(args.count[1]))
    with tempfile.TemporaryDirectory(prefix="scaling_") as folder:
        print("calls of each process in a step, on average, and bytes of a call (two processes, tiny model)")
        for call, count in sorted(calls_per_step(Path(folder)).items(), key=lambda item: -item[0].bytes):
            print(f"  {call.function:22} {count:6.2f} {call.bytes:12,}", flush=True)
    lengths = made_lengths(args.samples)
    for accumulation in args.accumulation:
        evenness = report_plans(lengths, args.positions, accumulation)
        for lora_rank in LORA_RANKS:
            report_waits(lora_rank, evenness, args.positions, accumulation)


if __name__ == "__main__":
    main()
