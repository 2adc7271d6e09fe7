"""The full-size step on the null CUDA device, with few layers; the device runs in a process of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.full_size_step import NULL_CUDA, parse_arguments
from tests.null_cuda import needs_null_cuda, run_null_cuda

LAYERS, RANK, WIDTH, KEY_WIDTH = 2, 4, 3072, 1024
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

    kernels = [line.split("\t") for line in (tmp_path / "kernels").read_text().splitlines()]
    launches = sum(int(count) for count, name in kernels if not name.startswith("CALL"))
    assert launches == report["per_step"]["launches"] > 0
    operations = [line.split(maxsplit=3) for line in (tmp_path / "ops").read_text().splitlines()]
    assert sum(int(calls) for calls, *_ in operations) == report["aten_operations"]
    products = sum(int(calls) for calls, _, _, name in operations if name.startswith("aten.mm."))
    assert products == report["per_step"]["products"] > 0


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
