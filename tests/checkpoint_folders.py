"""Checkpoints for tests: saved in both layouts, compared, and edited."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS


def save_in_both_layouts(model: HiggsAudioModel, folder: Path) -> dict[str, Path]:
    """Save the same weights in both layouts, each in several files. Return the folders by layout."""
    for layout in LAYOUTS:
        save_checkpoint(model, model.config, folder / layout, layout, max_shard_size="200KB")
    return {layout: folder / layout for layout in LAYOUTS}


def assert_same_tensors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Compare bit for bit."""
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert {tensor.dtype for tensor in found.values()} == {tensor.dtype for tensor in wanted.values()}


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def refusal(folder: Path) -> str:
    """Return the error for a folder that must not load."""
    with pytest.raises(InputError) as caught:
        HiggsAudioModel.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)
