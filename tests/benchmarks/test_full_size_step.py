"""The full-size step on the null CUDA device, with few layers; the device runs in a process of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.full_size_step import NULL_CUDA, parse_arguments
from tests.null_cuda import needs_null_cuda, report_of, run_null_cuda
from tests.quantised_models import needs_bitsandbytes

LAYERS, RANK, WIDTH, KEY_WIDTH = 2, 4, 3072, 1024
FFN_WIDTH, TEXT_ROWS, CODE_ROWS = 8192, 128256, 8 * 1026
SMALL = f"--layers {LAYERS} --rank {RANK} --samples 2 --targets attention".split()


def measure(*arguments: str) -> dict[str, Any]:
    """What the benchmark prints on the null device."""
    result = run_null_cuda("-m", "benchmarks.full_size_step", *SMALL, *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@needs_null_cuda
def test_a_step_takes_varlen_attention_in_bfloat16_and_waits_for_nothing() -> None:
    report = measure()
    assert report["attention"] == {"varlen q torch.bfloat16 v torch.bfloat16": LAYERS}
    assert report["per_step"]["syncs"] == 0 and report["syncs_by_line"] == {}


@needs_null_cuda
def test_a_step_is_counted_and_its_memory_is_that_of_its_tensors(tmp_path: Path) -> None:
    report = measure("--ops", str(tmp_path / "ops"), "--kernels", str(tmp_path / "kernels"))
    trainable = LAYERS * RANK * 2 * ((WIDTH + WIDTH) + (WIDTH + KEY_WIDTH))
    assert report["trainable"] == trainable
    assert report["memory_gb"]["optimizer"] == pytest.approx(12e-9 * trainable, abs=1e-3)  # gradients, two moments
    assert report["memory_gb"]["workspace"] > 0  # of cuBLAS
    assert sum(report["attention"].values()) == LAYERS
    assert report["peak_allocated_gb"] > report["lasting_gb"] + report["held_after_forward_gb"]
    saved, size = report["checkpoint"], 12 * trainable  # weights, two moments
    assert saved["copy_gb"] == pytest.approx(size / 1e9, abs=1e-3)
    assert saved["peak_allocated_gb"] - report["peak_allocated_gb"] == pytest.approx(size / 1e9, abs=2e-3)
    assert (saved["step"]["syncs"], saved["step"]["d2h"], saved["step"]["mallocs"]) == (0, 0, 0)
    assert saved["step"]["d2d_bytes"] == saved["thread"]["d2h_bytes"] == size + 4, "and AdamW's step"

    kernels = [line.split("\t") for line in (tmp_path / "kernels").read_text().splitlines()]
    launches = sum(int(count) for count, name in kernels if not name.startswith("CALL"))
    assert launches == report["per_step"]["launches"] > 0
    operations = [line.split(maxsplit=3) for line in (tmp_path / "ops").read_text().splitlines()]
    assert sum(int(calls) for calls, *_ in operations) == report["aten_operations"]
    products = sum(int(calls) for calls, _, _, name in operations if name.startswith(("aten.mm.", "aten.addmm")))
    assert products == report["per_step"]["products"] > 0


@needs_bitsandbytes
@needs_null_cuda
def test_a_step_on_quantised_weights_waits_for_nothing_and_holds_them_in_four_bits() -> None:
    report = measure("--quantise", "nf4")
    assert report["attention"] == {"varlen q torch.bfloat16 v torch.bfloat16": LAYERS}
    assert report["per_step"]["syncs"] == 0 and report["syncs_by_line"] == {}
    quantised = LAYERS * WIDTH * (2 * WIDTH + 2 * KEY_WIDTH + 6 * FFN_WIDTH)
    others = WIDTH * (2 * TEXT_ROWS + 2 * CODE_ROWS)
    # 4 bits, 8 for each 64 and 32 for each 64 * 256; the allocator rounds each of the small tensors up.
    size = quantised * (1 / 2 + 1 / 64 + 4 / 64 / 256) + others * 2
    assert report["memory_gb"]["weights"] == pytest.approx(size / 1e9, rel=2e-3)


@pytest.mark.slow
@needs_bitsandbytes
@needs_null_cuda
@pytest.mark.parametrize(("level", "most"), [("none", 10.0), ("ffn", 8.0), ("layer", 6.5)])
def test_the_peak_on_quantised_weights_at_full_size(level: str, most: float) -> None:
    words = "-m benchmarks.full_size_step --quantise nf4 --samples 4 --each 512".split()
    result = run_null_cuda(*words, "--recompute", level)
    assert result.returncode == 0, result.stderr
    assert 0.8 * most < json.loads(result.stdout)["peak_allocated_gb"] < most


@pytest.mark.slow
@needs_bitsandbytes
@needs_null_cuda
def test_a_dequantised_weight_costs_three_launches_and_no_sync() -> None:
    code = """
import torch
from boson_multimodal.model.higgs_audio.quantised_weights import dequantised_by, quantise_weight, require_quantisation
require_quantisation("nf4", torch.device("cuda"))
weight = torch.empty(8192, 3072, dtype=torch.bfloat16, device="cuda")
quantised, out = quantise_weight(weight), torch.empty_like(weight)
found = []
for buffer in (out, out, None):
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    cuda.reset()
    result = dequantised_by(quantised, buffer)
    counts = cuda.read()
    held = torch.cuda.max_memory_allocated() - before
    found.append({**{name: counts[name] for name in ("launches", "products", "syncs")}, "bytes": held})
    assert result.dtype == torch.bfloat16 and (buffer is None or result is buffer)
report({"found": found, "size": weight.nbytes})
"""
    report = report_of(code)
    scales = report["size"] // 32
    into_buffer = {"launches": 3, "products": 0, "syncs": 0, "bytes": scales}
    assert report["found"] == [into_buffer, into_buffer, {**into_buffer, "bytes": report["size"] + scales}]


@pytest.mark.slow
@needs_null_cuda
@pytest.mark.parametrize(
    ("mode", "figure"), [("--eval", "eval_peak_gb"), ("--vary", "varied"), ("--host", "launches_and_products")]
)
def test_each_mode_prints_its_figure(mode: str, figure: str) -> None:
    assert measure(mode)[figure]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "no CUDA device"),
        ("--host", f"need the null CUDA device, and {NULL_CUDA} is not set"),
        ("--layers 0", "must be at least 1"),
        ("--each 200", "--each 252 with these two"),
        ("--vary --each 300 --samples 2", "--samples times --each of at least 700"),
        ("--eval --ops file", "belong to the count of one step"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(NULL_CUDA, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        parse_arguments(flags.split())
    assert message in capsys.readouterr().err
