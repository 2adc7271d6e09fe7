"""The fused layers at full size on the null CUDA: launches, products, traffic and memory have bounds."""

import json

import pytest

from tests.null_cuda import needs_null_cuda, report_of, run_null_cuda

PER_LAYER = """
from benchmarks.full_size_step import set_up, parse_arguments
import torch
torch.backends.cuda.enable_cudnn_sdp(False)
found = []
for layers in (2, 3):
    bench = set_up(parse_arguments(f"--layers {layers} --samples 3 --each 300 --recompute LEVEL".split()), cuda)
    bench.run(0)
    cuda.reset()
    bench.run(1)
    counts = cuda.read()
    found.append((counts["launches"], counts["products"], counts["syncs"]))
report([b - a for a, b in zip(*found)])
"""


@pytest.mark.parametrize(
    ("level", "launches", "products"),
    [
        ("none", 63, 65),
        pytest.param("ffn", 67, 71, marks=pytest.mark.slow),
        pytest.param("layer", 80, 87, marks=pytest.mark.slow),
    ],
)
@needs_null_cuda
def test_a_layer_takes_no_more_launches_and_products_than_it_did(level: str, launches: int, products: int) -> None:
    """Forward, backward and the copies of its factors. Its part of the update is one launch for all layers."""
    found = report_of(PER_LAYER.replace("LEVEL", level))
    assert found[0] <= launches and found[1] <= products and found[2] == 0, found


@needs_null_cuda
@pytest.mark.parametrize(
    ("level", "launches", "products", "elementwise_gb", "kb", "peak_gb"),
    [
        ("none", 2500, 2000, 40.0, 80.0, 17.5),
        # What is computed again is launched again: these counts are bounds of what was measured.
        pytest.param("ffn", 2500, 2000, 43.0, 35.0, 15.0, marks=pytest.mark.slow),
        pytest.param("layer", 2500, 2450, 52.0, 8.0, 13.5, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_the_released_model_keeps_its_bounds(
    level: str, launches: int, products: int, elementwise_gb: float, kb: float, peak_gb: float
) -> None:
    """One micro-batch of 2,048 positions, rank 16, default targets."""
    words = f"-m benchmarks.full_size_step --samples 4 --each 512 --recompute {level}"
    result = run_null_cuda(*words.split())
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["positions"] == 2048 and report["per_step"]["syncs"] == 0
    assert report["per_step"]["launches"] <= launches
    assert report["per_step"]["products"] <= products
    assert report["elementwise_gb"] <= elementwise_gb
    assert report["kb_per_layer_and_position"] <= kb
    assert report["peak_allocated_gb"] <= peak_gb
