"""Our training step beside transformers' own class under PEFT: speed, memory, and share of the machine's GEMM rate.

    python -m benchmarks.training_speed [--model prop|real|released --dtype float32|bfloat16]

Both sides have the same weights, adapter (LoRA on attention and both FFNs), samples and labels. Before anything is
timed, losses and gradients of all sides must be equal. Three sides take turns in one process:

- ours: the trainer's step on the micro-batches of its batch plan, at most 2,048 positions each;
- transformers, as its users run it: padded batches of as many samples, in the given order;
- transformers, best settings: sorted by length, at most 2,048 positions with padding, SDPA, fused AdamW.

A step is one update over all samples. prop has the layers of the release at width 512 and a vocabulary of a sixth; real
has the whole vocabulary; released is the whole release, for a GPU. Each measurement is a line of JSON; a table follows.
"""

import argparse
import copy
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers

from arabic_voice_cloning_training_collator import HiggsAudioBatchInput
from benchmarks.full_size_step import NULL_CUDA
from benchmarks.needed_products import Products, best_seconds, needed_products, rows_of, synchronize, total_flops
from benchmarks.speed_models import LONGEST_SAMPLE, build_base, build_sample, corpus_sizes, model_config
from benchmarks.step_memory import DTYPES, SIDES, measure, measure_apart, step_parser
from benchmarks.step_sides import (
    Models,
    Outcome,
    Side,
    StepForm,
    build_models,
    our_adapter,
    our_batches,
    our_side,
    outcome_of,
    require_equal,
    require_equal_rounding,
    side_as_used,
    side_at_best,
    their_adapter,
    with_default_products,
)
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.device import pick_device
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from lora_config import HiggsAudioLoRATrainingConfig

Row = dict[str, Any]
"""One measurement: what was measured, and its figures."""
OURS, OURS_SAME_PRODUCTS = "ours", "ours, same products"
AS_USED, BEST = "transformers, as used", "transformers, best settings"
CHECKED_AT_RELEASED_SIZE = 2
"""Samples of the comparison at the released size, whose fp32 twin leaves little room on a GPU."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share.

    Attributes:
        config: of the model.
        samples, lengths: the samples in the order of their corpus, and the positions of each.
        budget: positions of a micro-batch.
    """

    config: HiggsAudioConfig
    samples: list[ChatMLDatasetSample]
    lengths: list[int]
    budget: int

    def first(self, count: int) -> "Bench":
        """The same with the first samples only."""
        return Bench(self.config, self.samples[:count], self.lengths[:count], self.budget)

    def batches(self) -> list[HiggsAudioBatchInput]:
        return our_batches(self.config, self.samples, self.lengths, self.budget)

    def sides(self, models: Models) -> dict[str, Side]:
        """All sides by name. A batch of the side as used has as many samples as ours have on average."""
        batches = self.batches()
        samples_per_batch = max(1, round(len(self.samples) / len(batches)))
        ours = our_side(models.ours, batches)
        sides: dict[str, Side] = {OURS: ours}
        if same := with_default_products(ours):
            sides[OURS_SAME_PRODUCTS] = same
        sides[AS_USED] = side_as_used(models.theirs, self.config, self.samples, samples_per_batch)
        sides[BEST] = side_at_best(models.theirs, self.config, self.samples, self.budget)
        return sides


def set_up(args: argparse.Namespace) -> Bench:
    """Make the samples."""
    config = model_config(args.model, args.layers)
    sizes = corpus_sizes(args.samples, args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    samples = [build_sample(config, size, generator) for size in sizes]
    return Bench(config, samples, [size.positions(config) for size in sizes], args.budget)


def outcomes_of(bench: Bench, models: Models) -> dict[str, Outcome]:
    """Loss and gradients of each side's step."""
    ours, theirs = our_adapter(models.ours), their_adapter(models.theirs)
    sides = bench.sides(models)
    return {name: outcome_of(side, theirs if name in (AS_USED, BEST) else ours) for name, side in sides.items()}


def build_equal_models(
    bench: Bench, form: StepForm, device: torch.device, dtype: torch.dtype
) -> tuple[Models, list[Row]]:
    """Build the models of both sides, and compare their steps.

    Steps in bf16 are compared by their distances to the fp32 step with the same weights, after the fp32 steps.

    Returns:
        the models, and a row for each comparison.

    Raises:
        UnequalStepsError: if two sides differ by more than rounding.
    """
    base = build_base(bench.config, device, dtype)
    exact_models = build_models(base if dtype == torch.float32 else copy.deepcopy(base).float(), form)
    exact = outcomes_of(bench, exact_models)
    rows = []
    for name in [name for name in exact if name != OURS]:
        apart = require_equal(exact[OURS], exact[name], name)
        rows.append({"measured": "equal steps", "dtype": "float32", "with": name, **vars(apart)})
    if dtype == torch.float32:
        return exact_models, rows
    adapter = {name: parameter.detach().clone() for name, parameter in our_adapter(exact_models.ours).items()}
    del exact_models
    give_back_memory()
    models = build_models(base, form, adapter)
    found = outcomes_of(bench, models)
    for name in (AS_USED, BEST):
        ours, theirs = require_equal_rounding(found[OURS], found[name], exact[OURS], name)
        row = {"measured": "distance to fp32", "dtype": str(dtype).removeprefix("torch."), "with": name}
        rows.append(row | {"ours": vars(ours), "theirs": vars(theirs)})
    return models, rows


def give_back_memory() -> None:
    """Free what nobody refers to any more; models refer to themselves."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def time_sides(sides: dict[str, Side], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each side's steps. The sides take turns, so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1 + rounds):
        for name, side in sides.items():
            synchronize(device)
            began = time.perf_counter()
            side.run()
            synchronize(device)
            if number > 0:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def speed_rows(seconds: dict[str, list[float]], positions: int) -> list[Row]:
    """A row for each side's times, and one for each ratio, with the smallest and the largest of its pairs."""
    rows: list[Row] = []
    for name, times in seconds.items():
        median = statistics.median(times)
        rows.append(
            {
                "measured": "step",
                "side": name,
                "seconds": times,
                "median": median,
                "positions_per_s": positions / median,
            }
        )
    ours_of = {"as shipped": OURS, "the same backend": OURS_SAME_PRODUCTS if OURS_SAME_PRODUCTS in seconds else OURS}
    for name in (AS_USED, BEST):
        for products, own_name in ours_of.items():
            ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds[own_name], strict=True)]
            row = {"measured": "speed", "against": name, "products": products}
            rows.append(row | {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)})
    return rows


def product_row(products: Products, seconds: float, device: torch.device, dtype: torch.dtype) -> Row:
    """The needed operations of a step, and its share of the machine's best rate for the same products."""
    flops, best = total_flops(products), best_seconds(products, device, dtype)
    return {
        "measured": "share of the machine's GEMM rate",
        "needed_tflop": flops / 1e12,
        "machine_gflops": flops / best / 1e9,
        "ours_gflops": flops / seconds / 1e9,
        "share": best / seconds,
    }


def memory_rows(args: argparse.Namespace, device: torch.device, is_null: bool) -> list[Row]:
    """A row for each side's peak of memory."""
    rows: list[Row] = []
    names = ("model", "dtype", "layers", "rank", "recompute", "positions", "seed")
    arguments = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for side in SIDES:
        row = {"measured": "peak of a step over the model", "side": side, "positions": args.positions}
        if is_null and side != "ours":
            # The class indexes by boolean masks; this device gives 0 as the number of their true entries.
            rows.append(row | {"not_measured": "its shapes depend on numbers, which the null device does not compute"})
        elif device.type == "cuda":
            given = argparse.Namespace(**{"layers": None, **arguments}, side=side)
            rows.append(row | measure(given, device, is_computing=not is_null))
            give_back_memory()
        else:
            rows.append(row | measure_apart(side=side, **arguments))
    return rows


def run(args: argparse.Namespace, show: Callable[[Row], None]) -> None:
    """Make all measurements, and pass each to ``show``."""
    device, dtype = pick_device(-1), DTYPES[args.dtype]
    is_null = NULL_CUDA in os.environ
    torch.manual_seed(args.seed)
    bench = set_up(args)
    batches = bench.batches()
    show(describe(args, bench, len(batches), device))
    products = sum((needed_products(bench.config, rows_of(b, bench.config), args.rank) for b in batches), Products())
    if is_null:
        flops = total_flops(products) / 1e12
        show({"measured": "step", "needed_tflop": flops, "not_measured": "the null device computes no number"})
    else:
        form = StepForm(HiggsAudioLoRATrainingConfig(lora_rank=args.rank), args.recompute)
        checked = bench.first(CHECKED_AT_RELEASED_SIZE) if args.model == "released" else bench
        models, rows = build_equal_models(checked, form, device, dtype)
        for row in rows:
            show(row)
        seconds = time_sides(bench.sides(models), args.rounds, device)
        for row in speed_rows(seconds, sum(bench.lengths)):
            show(row)
        del models
        give_back_memory()
        show(product_row(products, statistics.median(seconds[OURS]), device, dtype))
    for row in memory_rows(args, device, is_null):
        show(row)


def describe(args: argparse.Namespace, bench: Bench, micro_batches: int, device: torch.device) -> Row:
    """What is measured, with what."""
    return {
        "measured": "set-up",
        "model": args.model,
        "layers": bench.config.text_config.num_hidden_layers,
        "dtype": args.dtype,
        "rank": args.rank,
        "recompute": args.recompute,
        "samples": len(bench.samples),
        "positions": sum(bench.lengths),
        "shortest": min(bench.lengths),
        "longest": max(bench.lengths),
        "micro_batches": micro_batches,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def table_line(row: Row) -> str:
    """One row for people."""
    match row:
        case {"not_measured": reason, "measured": what}:
            return f"{what}: not measured, {reason}"
        case {"measured": "set-up"}:
            return ", ".join(f"{name} {value}" for name, value in row.items() if name != "measured")
        case {"measured": "equal steps"}:
            return f"fp32, ours and {row['with']}: loss within {row['loss']:.1e}, gradient within {row['gradient']:.1e}"
        case {"measured": "distance to fp32", "ours": ours, "theirs": theirs}:
            return (
                f"{row['dtype']}, distance to fp32, ours and {row['with']}: loss {ours['loss']:.1e} and "
                f"{theirs['loss']:.1e}, gradient {ours['gradient']:.1e} and {theirs['gradient']:.1e}"
            )
        case {"measured": "step"}:
            return f"{row['side']:28} {row['median']:8.3f} s a step, {row['positions_per_s']:8.0f} positions/s"
        case {"measured": "speed"}:
            ratios = f"{row['median']:.2f} [{row['least']:.2f} to {row['most']:.2f}]"
            return f"ours is {ratios} times as fast as {row['against']} (products: {row['products']})"
        case {"share": share}:
            return (
                f"needed products: {row['needed_tflop']:.3f} TFLOP a step; the machine's best for them "
                f"{row['machine_gflops']:.0f} GFLOP/s; ours {row['ours_gflops']:.0f} GFLOP/s, {100 * share:.0f} %"
            )
    memory = f"{row['peak_bytes'] / 1e9:.3f} GB over the model at its peak, {row['positions']} positions"
    return f"{row['side']:28} {memory} of {row['samples']} samples"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags, and end the program for those that cannot be followed."""
    parser = step_parser(__doc__, "prop")
    parser.add_argument("--samples", type=int, default=32, help="Samples of a step.")
    parser.add_argument("--budget", type=int, default=2048, help="The most positions of a micro-batch.")
    parser.add_argument("--rounds", type=int, default=5, help="Steps that each side takes in turn.")
    args = parser.parse_args(arguments)
    if min(args.rank, args.samples, args.rounds) < 1 or (args.layers is not None and args.layers < 1):
        parser.error("--layers, --rank, --samples and --rounds must be at least 1")
    if min(args.budget, args.positions) < LONGEST_SAMPLE:
        parser.error(f"--budget and --positions must be at least {LONGEST_SAMPLE}, for the longest sample")
    if args.model == "released" and not torch.cuda.is_available():
        parser.error("--model released needs a GPU; no CUDA device was found")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was measured: lines of JSON at once, then the table."""
    args = parse_arguments(arguments)
    rows: list[Row] = []

    def show(row: Row) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    run(args, show)
    print("\n" + "\n".join(map(table_line, rows)), flush=True)
    if NULL_CUDA in os.environ:
        os._exit(0)  # the interpreter's own exit may use handles that the null device has freed
    return 0


if __name__ == "__main__":
    sys.exit(main())
