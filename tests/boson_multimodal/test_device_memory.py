"""What PyTorch's allocator reserves on the null CUDA beside what is in use."""

import json

import pytest
import torch

from boson_multimodal.device_memory import ALLOCATOR_OPTIONS, hold_one_block, release_cached_memory
from tests.null_cuda import needs_null_cuda, report_of, run_null_cuda

MARGIN = 1.05


def varied(*arguments: str) -> dict[str, object]:
    """Memory over 60 steps of varied lengths at the released size."""
    result = run_null_cuda("-m", "benchmarks.full_size_step", "--vary", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["varied"]


@pytest.mark.slow
@needs_null_cuda
@pytest.mark.parametrize("arguments", ["", "--recompute ffn", "--recompute layer", "--plain", "--layers 4"])
def test_steps_of_varied_lengths_reserve_little_more_than_they_use(arguments: str) -> None:
    found = varied(*arguments.split())
    assert found["reserved_gb_after_steps"][-1] <= MARGIN * found["peak_allocated_gb"]
    assert found["retries"] == 0


BLOCK = """
import torch
from boson_multimodal.device_memory import hold_one_block
device, MB = torch.device("cuda", 0), 1 << 20

def find(option):
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    lasting = torch.empty(30 * MB, dtype=torch.uint8, device=device)
    parts = [torch.empty(20 * MB, dtype=torch.uint8, device=device) for _ in range(5)]
    del parts
    if option:
        os.environ[option] = "max_split_size_mb:64"
    hold_one_block(device, torch.cuda.max_memory_allocated())
    os.environ.pop(option, None)
    reserved, used = torch.cuda.memory_reserved() // MB, torch.cuda.memory_allocated() // MB
    cuda.reset()
    one = torch.empty(90 * MB, dtype=torch.uint8, device=device)  # larger than any piece before
    return [used, reserved, cuda.read()["mallocs"]]

report({option: find(option) for option in ["", *OPTIONS]})
"""


@needs_null_cuda
def test_one_block_serves_allocations_of_any_size_unless_the_user_set_up_the_allocator() -> None:
    """A block above max_split_size_mb would be of no use to a smaller tensor."""
    found = report_of(f"OPTIONS = {ALLOCATOR_OPTIONS!r}\n{BLOCK}")
    assert found == {"": [30, 130, 0]} | {option: [30, 130, 1] for option in ALLOCATOR_OPTIONS}


def test_nothing_happens_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", None)
    release_cached_memory(torch.device("cpu"))
    hold_one_block(torch.device("cpu"), 1 << 40)
