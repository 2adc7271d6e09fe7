"""The models that judge, as the flags of tools.evaluate name them."""

from pathlib import Path

import pytest
import torch

from boson_multimodal.errors import InputError, Problems
from tools import evaluate


def test_every_judge_that_cannot_be_used_is_named(demo: Path, tmp_path: Path) -> None:
    words = ["--test_set", "set.json", "--output_dir", "out", "--asr", tmp_path / "nowhere"]
    flags = evaluate.parse_arguments([*map(str, words), "--speaker_model", str(demo / "model")])
    problems = Problems()
    judges = evaluate.find_judges(flags, torch.device("cpu"), problems)
    assert (judges.recogniser, judges.speaker_model) == (None, None)
    with pytest.raises(InputError) as caught:
        problems.raise_all()
    assert f"--asr {tmp_path / 'nowhere'}: no such folder" in str(caught.value)
    assert f"--speaker_model {demo / 'model'}: no preprocessor_config.json" in str(caught.value)
