"""Runs that the tests of run folders damage."""

import shutil
from pathlib import Path

import pytest

from tests.run_damages import Runs, make_runs


@pytest.fixture(scope="package")
def runs(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return runs that no test changes."""
    return make_runs(demo, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(runs: Runs, tmp_path: Path) -> Path:
    """Return a copy of the interrupted run."""
    return shutil.copytree(runs.interrupted, tmp_path / "run")
