"""A tiny model, and its checkpoint in both layouts."""

from pathlib import Path

import pytest

from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.boson_multimodal.test_native_oracle import model_with_moved_norms
from tests.checkpoint_folders import save_in_both_layouts


@pytest.fixture
def model() -> HiggsAudioModel:
    """Return a model whose norms differ from 1."""
    return model_with_moved_norms()


@pytest.fixture
def saved(model: HiggsAudioModel, tmp_path: Path) -> dict[str, Path]:
    """Return the folder of the model's checkpoint by layout."""
    return save_in_both_layouts(model, tmp_path)
