"""A plugin of pytest that prints a line of JSON for each test: ``pytest -s -m gpu -p tests.gpu_outcomes``.

Under the null CUDA device (``tests/null_cuda.py``), which computes no numbers, a GPU test whose assertion fails has run
all of its code up to there; that counts as an expected failure. Every other error stays one.
"""

import json
import os
from collections.abc import Iterator

import pytest
import torch

from benchmarks.full_size_step import NULL_CUDA

REACHED = "reached the assertion on numbers, which the null device does not compute"


def pytest_configure(config: pytest.Config) -> None:
    """Turn off what the null device lacks."""
    if NULL_CUDA in os.environ:
        torch.backends.cudnn.enabled = False
        torch.backends.cuda.enable_cudnn_sdp(False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Count an assertion that fails under the null device as expected."""
    report = yield
    is_expected = call.when == "call" and call.excinfo is not None and call.excinfo.errisinstance(AssertionError)
    if is_expected and NULL_CUDA in os.environ and item.get_closest_marker("gpu"):
        report.outcome, report.wasxfail = "skipped", REACHED
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print the outcome of a test, and of a set-up that failed or skipped it."""
    if report.when == "call" or report.outcome != "passed":
        outcome = "reached its assertion" if hasattr(report, "wasxfail") else report.outcome
        found = {"test": report.nodeid, "outcome": outcome, "seconds": round(report.duration, 2)}
        if report.outcome == "failed":
            found["reason"] = report.longreprtext.strip().splitlines()[-1][:300]
        elif report.outcome == "skipped" and not hasattr(report, "wasxfail"):
            found["reason"] = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        print(f"\n{json.dumps(found)}", flush=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the exit status for ``pytest_unconfigure``."""
    session.config.stash[EXIT_STATUS] = int(exitstatus)


EXIT_STATUS = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process at once under the null device: the interpreter's own end may use handles that it has freed."""
    if NULL_CUDA in os.environ:
        os._exit(config.stash.get(EXIT_STATUS, 1))
