"""The models that judge, as the flags of tools.evaluate name them."""

from pathlib import Path

import pytest
import torch

from boson_multimodal.errors import InputError
from tools import evaluate


def test_every_judge_that_cannot_be_used_is_named(demo: Path, tmp_path: Path) -> None:
    words = ["--test_set", "set.json", "--output_dir", "out", "--asr", tmp_path / "nowhere"]
    flags = evaluate.parse_arguments([*map(str, words), "--speaker_model", str(demo / "model")])
    with pytest.raises(InputError) as caught:
        evaluate.load_judges(flags, torch.device("cpu"))
    assert f"--asr {tmp_path / 'nowhere'}: no such folder" in str(caught.value)
    assert f"--speaker_model {demo / 'model'}: no preprocessor_config.json" in str(caught.value)
