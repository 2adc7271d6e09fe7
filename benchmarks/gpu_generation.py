"""Measures generation at the released model's size on a GPU: milliseconds per column, and what bounds them.

    python -m benchmarks.gpu_generation [--batch 1 16 --columns 64 --layers 28]
    NULLCUDA/run python -m benchmarks.gpu_generation [...]    counts launches, products and waits per column instead

The weights are random. The prompts have 400 positions, half of them columns of a reference clip; with ``--ragged`` each
is one position shorter than the one before. Sampling has its usual settings, but no column ends a clip.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.device_measures import (
    counts_of,
    kernel_seconds,
    leave,
    noted_waits,
    open_device,
    print_result,
    seconds_of,
    share,
)
from benchmarks.released_size import build_base
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.model.higgs_audio import HiggsAudioModel

PROMPT_POSITIONS, REFERENCE_COLUMNS = 400, 200
NEVER_DRAWN = -1
FEW_COLUMNS, ROUNDS = 16, 3
"""Columns of the shorter of two runs, whose difference is free of the prompt; and repetitions of both."""
COUNTED = ("launches", "products", "syncs", "h2d", "d2h", "d2d")


def build_prompts(model: HiggsAudioModel, batch: int, ragged: bool) -> dict[str, torch.Tensor]:
    """Arguments of ``generate``: text, a reference clip as code columns, more text, and the start of speech."""
    config = model.config
    text = PROMPT_POSITIONS - REFERENCE_COLUMNS + 1
    ids = torch.full((batch, text), 100)
    ids[:, 50], ids[:, -1] = config.audio_in_token_idx, config.audio_out_bos_token_id
    mask = torch.ones_like(ids)
    if ragged:
        mask = (torch.arange(text) >= torch.arange(batch)[:, None] % 50).long()
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "audio_in_ids": torch.randint(
            0, config.audio_codebook_size, (config.audio_num_codebooks, batch * REFERENCE_COLUMNS)
        ),
        "audio_in_ids_start": torch.arange(batch) * REFERENCE_COLUMNS,
    }


def measure(model: HiggsAudioModel, prompts: dict[str, torch.Tensor], columns: int) -> dict[str, Any]:
    """Times of a GPU: the median of some rounds."""
    generate = partial(model.generate, **prompts, seed=1)
    few = partial(generate, max_new_tokens=FEW_COLUMNS)
    many = partial(generate, max_new_tokens=FEW_COLUMNS + columns)
    seconds_of(many)  # the first run loads kernels
    torch.cuda.reset_peak_memory_stats()
    pairs = [(seconds_of(few), seconds_of(many)) for _ in range(ROUNDS)]
    column = statistics.median((longer - shorter) / columns for shorter, longer in pairs)
    kernels = _difference(kernel_seconds(many), kernel_seconds(few), columns)
    busy = share(kernels, column)
    batch = len(prompts["input_ids"])
    return {
        "ms_per_column": round(1e3 * column, 2),
        "kernel_ms_per_column": None if kernels is None else round(1e3 * kernels, 2),
        "host_bound_share": None if busy is None else round(1 - busy, 3),
        "prompt_ms": round(1e3 * (statistics.median(shorter for shorter, _ in pairs) - FEW_COLUMNS * column), 1),
        "seconds_of_speech_per_second": round(batch / column / FRAMES_PER_SECOND, 1),
        "peak_allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }


def _difference(longer: float | None, shorter: float | None, columns: int) -> float | None:
    return None if longer is None or shorter is None else (longer - shorter) / columns


def count(model: HiggsAudioModel, prompts: dict[str, torch.Tensor], columns: int, null_cuda: Any) -> dict[str, Any]:
    """What one column launches on the null device, copies and waits for, and where it waits in a whole call."""
    generate = partial(model.generate, **prompts, seed=1)
    counts = [
        counts_of(null_cuda, partial(generate, max_new_tokens=number))
        for number in (FEW_COLUMNS, FEW_COLUMNS + columns)
    ]
    with noted_waits() as waits:
        generate(max_new_tokens=FEW_COLUMNS)
    return {
        "per_column": {name: round((counts[1][name] - counts[0][name]) / columns, 2) for name in COUNTED},
        f"waits_in_{FEW_COLUMNS}_columns": waits,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a result as JSON for each number of samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="Samples that are generated together.")
    parser.add_argument("--columns", type=int, default=64, help="Columns that are timed.")
    parser.add_argument("--layers", type=int, default=28, help="Layers of the model.")
    parser.add_argument("--ragged", action="store_true", help="Prompts of different lengths.")
    args = parser.parse_args(arguments)
    if min(*args.batch, args.columns, args.layers) < 1:
        parser.error("--batch, --columns and --layers must be at least 1")
    _, null_cuda = open_device()
    torch.manual_seed(0)
    model = build_base(args.layers, null_cuda is None, False)
    model.config.audio_stream_eos_id = NEVER_DRAWN  # random weights would end a clip after a few columns
    for batch in args.batch:
        prompts = build_prompts(model, batch, args.ragged)
        took = count(model, prompts, args.columns, null_cuda) if null_cuda else measure(model, prompts, args.columns)
        print_result({**vars(args), "batch": batch, "prompt_positions": PROMPT_POSITIONS, **took})
    leave(null_cuda)
    return 0


if __name__ == "__main__":
    sys.exit(main())
