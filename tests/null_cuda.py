"""Run code under a CUDA that does nothing: kernels are counted and not run, memory is that of PyTorch's allocator."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.goldens import SHARED_DIR

PROJECT = Path(__file__).resolve().parents[1]
NULL_CUDA_RUN = SHARED_DIR / "nullcuda" / "run"
REPORT = "null-cuda-report "


def _reason_to_skip() -> str:
    """Return why the tests cannot run here; empty if they can, or if they must (in CI, beside ../shared)."""
    if not SHARED_DIR.exists():
        return "../shared is absent"
    if os.environ.get("CI") == "true":
        return ""
    if not NULL_CUDA_RUN.exists():
        return "../shared/nullcuda is absent"
    if torch.version.cuda is None or shutil.which("g++") is None:
        return "the null CUDA needs a CUDA build of torch and g++"
    return ""


needs_null_cuda = pytest.mark.skipif(bool(_reason_to_skip()), reason=_reason_to_skip() or "it can run")


def run_null_cuda(*command: str, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``python COMMAND...`` in the project's folder under the null CUDA, with more environment variables."""
    return subprocess.run(
        [str(NULL_CUDA_RUN), sys.executable, *command],
        cwd=PROJECT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def report_of(code: str, timeout: float = 300, **variables: str) -> dict[str, Any]:
    """Run Python code under the null CUDA, and return the object that it passes to ``report``.

    ``report`` is defined in the code. It prints the object and ends the process at once, because the interpreter's own
    end can meet freed handles. ``cuda`` is a ``NullCuda``, which counts launches, products and syncs.
    """
    prologue = (
        "import json, os, sys\n"
        "from benchmarks.full_size_step import NullCuda\n"
        "cuda = NullCuda(os.environ['NULLCUDA_SO'])\n"
        "def report(found):\n"
        f"    print({REPORT!r} + json.dumps(found), flush=True)\n"
        "    os._exit(0)\n"
    )
    result = run_null_cuda("-c", prologue + code, timeout=timeout, **variables)
    lines = [line for line in result.stdout.splitlines() if line.startswith(REPORT)]
    assert len(lines) == 1, result.stdout + result.stderr
    return json.loads(lines[0].removeprefix(REPORT))
