"""What the first evaluation says of a training with wrong labels, which the loss does not say.

Two public trainers had such labels: one masks the ends of the clips, one knows no delay pattern. Here the collator is
made to do the same for a run of the program, in training and in evaluation, as with a mistake of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from arabic_voice_cloning_training_collator import (
    ArabicVoiceCloningTrainingCollator,
    ChatMLDatasetSample,
    HiggsAudioBatchInput,
)
from boson_multimodal.constants import IGNORE_INDEX
from tests.goldens import SHARED_DIR
from tests.training_runs import EVERY_GROUP, metrics
from voice_cloning.training.config import parse_arguments

DATA = SHARED_DIR / "speaks"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="../shared/speaks is absent"),
]
SETTINGS: dict[str, Any] = {
    "data_path": DATA / "new.json",
    "eval_data_path": DATA / "new_val.json",
    "codes": [DATA / "new.safetensors", DATA / "new_val.safetensors"],
    "prompt_style": "as_written",
    "model_path": DATA / "base_model",
    "audio_tokenizer_path": "no_codec",
    "max_steps": 75,
    "max_tokens_per_batch": 1024,
    "learning_rate": 2e-3,
    "warmup_steps": 10,
    "lora_rank": 64,
    "lora_alpha": 64,
    "lora_targets": EVERY_GROUP,
    "report_to": "none",
}


@contextmanager
def masked_ends() -> Iterator[None]:
    call = ArabicVoiceCloningTrainingCollator.__call__

    def masking(self: ArabicVoiceCloningTrainingCollator, samples: list[ChatMLDatasetSample]) -> HiggsAudioBatchInput:
        batch = call(self, samples)
        batch.label_audio_ids.masked_fill_(batch.label_audio_ids == self.audio_stream_eos_id, IGNORE_INDEX)
        return batch

    with patch.object(ArabicVoiceCloningTrainingCollator, "__call__", masking):
        yield


@contextmanager
def no_delay() -> Iterator[None]:
    make = ArabicVoiceCloningTrainingCollator.from_config

    def without_delay(*args: Any) -> ArabicVoiceCloningTrainingCollator:
        collator = make(*args)
        collator.use_delay_pattern = False
        return collator

    with patch.object(ArabicVoiceCloningTrainingCollator, "from_config", without_delay):
        yield


@contextmanager
def right_labels() -> Iterator[None]:
    yield


@dataclass(frozen=True)
class FirstEvaluation:
    """The figures of the first evaluation of a run, and how far the training loss has fallen until then."""

    figures: dict[str, float]
    fallen: float


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> dict[Callable, FirstEvaluation]:
    """The first evaluation of a run with each kind of labels, long before such a run is over."""
    found = {}
    for labels in (right_labels, masked_ends, no_delay):
        run = tmp_path_factory.mktemp("runs") / labels.__name__
        words = [f"--{name}={value}" for name, value in SETTINGS.items() if not isinstance(value, list)]
        for name in ("codes", "lora_targets"):
            words += [f"--{name}", *map(str, SETTINGS[name])]
        with labels():
            ArabicVoiceCloningDistributedTrainer(*parse_arguments([*words, f"--output_dir={run}"], "")).train()
        lines = [line for line in metrics(run) if "sample" not in line]
        (figures,) = [line for line in lines if "eval_loss" in line]
        losses = [line["loss"] for line in lines if "loss" in line]
        found[labels] = FirstEvaluation(figures, losses[0] - losses[-1])
    return found


def test_right_labels_give_clips_that_end_near_their_length(evaluations: dict[Callable, FirstEvaluation]) -> None:
    found = evaluations[right_labels].figures
    assert found["spoken_stop_rate"] > 0.9 and 0.7 < found["spoken_length_ratio"] < 1.3
    assert found["eval_accuracy_end"] > 0.9 and found["eval_accuracy_end_codebook_0"] > 0.5
    assert found["spoken_characters_per_second"] < 1.5 * found["true_characters_per_second"]


def test_masked_ends_show_in_the_stop_rate_and_the_length(evaluations: dict[Callable, FirstEvaluation]) -> None:
    found = evaluations[masked_ends].figures
    assert found["spoken_stop_rate"] < 0.1 and found["spoken_length_ratio"] > 2
    assert "eval_accuracy_end" not in found and "eval_accuracy_end_codebook_0" not in found


def test_a_missing_delay_shows_in_the_length(evaluations: dict[Callable, FirstEvaluation]) -> None:
    found = evaluations[no_delay].figures
    assert found["spoken_length_ratio"] < 0.7 and found["spoken_length_ratio_p5"] < 0.2
    assert found["spoken_characters_per_second"] > 1.5 * found["true_characters_per_second"]


@pytest.mark.parametrize("wrong", [masked_ends, no_delay])
def test_the_loss_does_not_show_them(evaluations: dict[Callable, FirstEvaluation], wrong: Callable) -> None:
    """It falls as with right labels, and ends within 5 % of them. Other recipes differ by more."""
    right, found = evaluations[right_labels], evaluations[wrong]
    assert found.figures["eval_loss"] < 1.05 * right.figures["eval_loss"]
    assert found.fallen > 0.8 * right.fallen
