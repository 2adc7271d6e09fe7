"""A file with clips, and a cache of their codes."""

import shutil
from pathlib import Path

import pytest

from tests.voice_cloning.corpora.encoded_clips import clips_and_records
from tests.voice_cloning.run.packed_starts import start


@pytest.fixture(scope="package")
def encoded(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with data.json, its three clips and ref.wav, and a cache of their codes without prepared data."""
    folder = tmp_path_factory.mktemp("encoded")
    start(demo, clips_and_records(folder, 3), folder / "cache")
    shutil.rmtree(folder / "cache" / "prepared")
    return folder


@pytest.fixture
def files(encoded: Path, tmp_path: Path) -> Path:
    """A copy of the folder, with the times of its files."""
    return shutil.copytree(encoded, tmp_path / "files")
