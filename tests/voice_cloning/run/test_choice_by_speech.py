"""A run cannot choose its best checkpoint by speech where there is none, or too little: it says so before it begins."""

from types import SimpleNamespace

import pytest
import torch

from boson_multimodal.errors import InputError
from boson_multimodal.process_group import Ranks
from voice_cloning.run.speech import find_recogniser_of
from voice_cloning.training.config import DistributedTrainingConfig


def load(samples: int, use_delay_pattern: bool, keep_best_by: str) -> object:
    config = DistributedTrainingConfig(data_path="a", output_dir="b", eval_data_path="val", keep_best_by=keep_best_by)
    data = SimpleNamespace(
        eval_dataset=[None] * samples, model_config=SimpleNamespace(use_delay_pattern=use_delay_pattern)
    )
    return find_recogniser_of(config, data, torch.device("cpu"), Ranks())


@pytest.mark.parametrize(
    ("samples", "use_delay_pattern", "message"),
    [
        (31, True, "--keep_best_by stop_rate: --eval_data_path val has 31 samples; fewer than 32 cannot decide"),
        (40, False, "--keep_best_by: needs spoken samples, and config.json .* such a model cannot speak"),
    ],
)
def test_speech_that_cannot_decide_is_refused(samples: int, use_delay_pattern: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(samples, use_delay_pattern, "stop_rate")
    assert load(samples, use_delay_pattern, "loss") is None


def test_enough_speech_is_accepted() -> None:
    assert load(32, True, "stop_rate") is None
