"""Peak memory of one training step over what lasts: weights, adapter, AdamW's state and gradients.

    python -m benchmarks.step_memory --side ours|transformers [--model real --dtype float32 --positions 2048]

On a CPU the figure is that of the operating system (VmHWM, set back just before the step), in a process that takes no
other step but a short one before it, so that code and state are loaded. It has all that the step touches: tensors,
workspaces of libraries, and memory that was freed and not given back. On a GPU it is that of PyTorch's allocator. The
step has one micro-batch. For transformers' class its samples are padded to the longest of them.
"""

import argparse
import ctypes
import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from benchmarks.released_size import add_adapter
from benchmarks.speed_models import MODELS, SampleSize, build_base, build_sample, model_config, sizes_with_positions
from benchmarks.step_sides import OurStep, our_side, side_as_used
from benchmarks.transformers_training import TransformersStep, build_peft_model, pad_batches
from boson_multimodal.device import pick_device
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning.training.config import RECOMPUTE_LEVELS

SIDES = ("ours", "transformers")
PROCESS = Path("/proc/self")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def peak_over(run: Callable[[], object], device: torch.device) -> int:
    """Bytes of memory that ``run`` needs at its peak, over those in use before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)
    (PROCESS / "clear_refs").write_text("5", encoding="ascii")  # VmHWM becomes VmRSS
    before = _process_bytes("VmRSS")
    run()
    return _process_bytes("VmHWM") - before


def _process_bytes(field: str) -> int:
    status = (PROCESS / "status").read_text(encoding="ascii")
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)[1])


def measure(args: argparse.Namespace, device: torch.device, is_computing: bool) -> dict[str, object]:
    """Measure the step of one side over samples that have ``args.positions`` positions in all."""
    torch.manual_seed(0)
    config = model_config(args.model, args.layers)
    base = build_base(config, device, DTYPES[args.dtype], is_computing)
    settings = HiggsAudioLoRATrainingConfig(lora_rank=args.rank)
    sizes = sizes_with_positions(args.positions, config, args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    short = build_sample(config, SampleSize(sizes[0].text, sizes[0].reference, 1), generator)
    samples = [build_sample(config, size, generator) for size in sizes]
    side: OurStep | TransformersStep
    if args.side == "ours":
        collate = ArabicVoiceCloningTrainingCollator.from_config(config)
        side, measured = our_side(add_adapter(base, settings, args.recompute), [collate([short])]), [collate(samples)]
    else:
        side = side_as_used(build_peft_model(base, settings), config, [short], 1)
        measured = pad_batches(samples, config, [range(len(samples))])
    side.run()
    side.batches[:] = measured
    for parameter in side.model.parameters():  # those of transformers' side are freed after each step
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return {"samples": len(sizes), "peak_bytes": peak_over(side.run, device)}


def measure_apart(**arguments: object) -> dict[str, object]:
    """Run this module in a process of its own, with these arguments, and return what it prints."""
    flags = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.step_memory", *flags]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def step_parser(description: str | None, model: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that describe a step, for this command and for ``training_speed``.

    Args:
        description: of the command.
        model: the default of ``--model``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default=model)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--layers", type=int, help="Layers of the model; by default 6, released 28.")
    parser.add_argument("--rank", type=int, default=16, help="Rank of the adapter.")
    parser.add_argument("--recompute", choices=RECOMPUTE_LEVELS, default="none", help="What our side computes twice.")
    parser.add_argument("--positions", type=int, default=2048, help="Positions of the step whose memory is measured.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of weights and samples.")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figure as a line of JSON."""
    parser = step_parser(__doc__, "real")
    parser.add_argument("--side", choices=SIDES, required=True)
    args = parser.parse_args(arguments)
    print(json.dumps(vars(args) | measure(args, pick_device(-1), is_computing=True)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
