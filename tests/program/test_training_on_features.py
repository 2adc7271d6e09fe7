"""References as features of the audio tower: refusals before weights, and a run of the whole program."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.audio_processing.mel_features import ReferenceForm, build_feature_extractor
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from lora_config import TARGET_GROUPS, HiggsAudioLoRATrainingConfig, create_higgs_audio_lora_model
from tests.spoken_runs import sample_lines
from tests.tower_models import CHUNK_SECONDS, MEL_BINS, TOWER, config_with_tower, write_model
from tests.training_runs import metrics, trainer
from voice_cloning.evaluation import asked_samples
from voice_cloning.run.components import FinishedRun


@pytest.fixture(scope="module")
def tower_model(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(demo, tmp_path_factory.mktemp("tower") / "model")


# -- refusals before weights -----------------------------------------------------------------------------------------


def model_without_weights(demo: Path, folder: Path, **changes: Any) -> Path:
    """Save a checkpoint without weights, so that reading them fails."""
    shutil.copytree(demo / "model", folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    config_with_tower(demo / "model", **changes).save_pretrained(folder)
    return folder


REFUSED = {
    "features without a tower": (
        {"skip_audio_tower": True},
        {},
        "encode_whisper_embed true, but skip_audio_tower true: there is no tower .* would ignore the reference",
    ),
    "neither": (
        {"encode_whisper_embed": False},
        {},
        "encode_audio_in_tokens and encode_whisper_embed false: the model would ignore the reference",
    ),
    "a tower that reads less than a second": (
        {"audio_encoder_config": {**TOWER, "max_source_positions": 49}},
        {},
        "max_source_positions 49, less than a second of audio",
    ),
    "a processor of other bins": (
        {},
        {"feature_size": 80, "chunk_length": CHUNK_SECONDS},
        r"does not fit the model \(1\):\n  makes features of 80 mel bins, the model's tower reads 16",
    ),
    "a processor of other chunks and rate": (
        {},
        {"feature_size": MEL_BINS, "chunk_length": 30, "sampling_rate": 8000},
        r"8000 samples per second, the model's tower reads 16000\n.* 30 seconds per chunk, the model's tower reads 1",
    ),
    "a processor for codes": (
        {"encode_audio_in_tokens": True, "encode_whisper_embed": False},
        {"feature_size": MEL_BINS, "chunk_length": CHUNK_SECONDS},
        "whisper_processor_path .*: this model reads references as codes; leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_references_are_refused_before_weights_and_data(name: str, demo: Path, tmp_path: Path) -> None:
    changes, processor, message = REFUSED[name]
    model = model_without_weights(demo, tmp_path / "model", **changes)
    settings: dict[str, Any] = {}
    if processor:
        WhisperFeatureExtractor(**processor).save_pretrained(tmp_path / "processor")
        settings["whisper_processor_path"] = tmp_path / "processor"
    with pytest.raises(InputError, match=message):
        trainer(demo, tmp_path / "out", model_path=model, **settings)
    assert not (tmp_path / "out").exists()


def test_a_missing_processor_is_refused(demo: Path, tmp_path: Path) -> None:
    model = model_without_weights(demo, tmp_path / "model")
    with pytest.raises(InputError, match="--whisper_processor_path /no/such: neither a processor's folder nor "):
        trainer(demo, tmp_path / "out", model_path=model, whisper_processor_path="/no/such")


def test_prepared_data_are_refused_because_they_hold_no_waveforms(
    demo: Path, tower_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="packed: prepared data hold codes, and this model reads references as feat"):
        trainer(demo, tmp_path / "out", model_path=tower_model, data_path=tmp_path / "packed", eval_data_path=None)


def test_features_without_a_tower_do_not_matter_if_codes_are_used(demo: Path) -> None:
    config = config_with_tower(demo / "model", encode_audio_in_tokens=True, skip_audio_tower=True)
    assert ReferenceForm.of(config) == ReferenceForm(codes=True, chunk_seconds=None)
    collate = ArabicVoiceCloningTrainingCollator.from_config(config)
    assert collate.return_audio_in_tokens and not collate.encode_whisper_embed


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", TARGET_GROUPS)
def test_the_tower_gets_no_adapter_and_stays_frozen(group: str, tower_model: Path) -> None:
    config = HiggsAudioLoRATrainingConfig(lora_targets=[group])
    model, _, _ = create_higgs_audio_lora_model(tower_model, config, torch_dtype=torch.float32)
    tower = {n: p for n, p in model.named_parameters() if "audio_tower" in n or "audio_encoder_proj" in n}
    assert any("q_proj" in name for name in tower)
    assert not any("lora" in name or parameter.requires_grad for name, parameter in tower.items())


def losses(output_dir: Path) -> list[float]:
    return [line["loss"] for line in metrics(output_dir) if "loss" in line]


@pytest.mark.parametrize("codes", [False, True], ids=["features", "features and codes"])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_program_trains_on_features_and_does_not_change_the_tower(
    codes: bool, gradient_checkpointing: bool, demo: Path, tmp_path: Path
) -> None:
    """With both forms, a chunk holds the demo's longest reference. With features only, it takes up to 3 chunks."""
    seconds = 3 if codes else CHUNK_SECONDS
    tower = {**TOWER, "max_source_positions": 50 * seconds}
    model = write_model(demo, tmp_path / "model", encode_audio_in_tokens=codes, audio_encoder_config=tower)
    subject = trainer(
        demo,
        tmp_path / "out",
        model_path=model,
        prompt_style="as_written",  # the tower reads references of user turns only
        max_steps=12,
        logging_steps=1,
        gradient_checkpointing=gradient_checkpointing,
    )
    before = {
        n: p.clone()
        for n, p in subject.components.model.named_parameters()
        if "audio_tower" in n or "encoder_proj" in n
    }
    assert subject.train().finished
    found = losses(tmp_path / "out")
    assert len(found) == 12 and found[-1] < found[0] - 0.2
    parameters = dict(subject.components.model.named_parameters())
    assert before and all(torch.equal(parameters[name], value) for name, value in before.items())


def loss_and_gradient(subject: Any, index: int, **changes: Tensor) -> tuple[float, Tensor]:
    """Return loss and gradient of one sample after changes of its fields."""
    item = dataclasses.replace(subject.components.data.train_dataset[index], **changes)
    output = subject._training_step(subject.components.data.collator([item]))
    subject.components.optimizer.gradients.zero_()
    output.loss.backward()
    return output.loss.item(), subject.components.optimizer.gradients.clone()


def test_loss_and_gradients_depend_on_the_reference(demo: Path, tower_model: Path, tmp_path: Path) -> None:
    """A different sound of the same length gives a different loss."""
    subject = trainer(demo, tmp_path / "out", model_path=tower_model, prompt_style="as_written", lora_dropout=0.0)
    item = subject.components.data.train_dataset[0]
    loss, gradient = loss_and_gradient(subject, 0)
    again, same_gradient = loss_and_gradient(subject, 0)
    assert again == loss and torch.equal(same_gradient, gradient)
    other, other_gradient = loss_and_gradient(subject, 0, audio_waveforms_concat=item.audio_waveforms_concat.flip(0))
    assert abs(other - loss) > 1e-4
    assert (other_gradient - gradient).norm() > 1e-3 * gradient.norm()


def test_samples_are_spoken_from_features(
    demo: Path, tower_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference has no codes, and so no clip beside the spoken one."""
    monkeypatch.setattr(asked_samples, "LONGEST_IN_TRUE_CLIPS", 1)  # in less time
    settings = {"max_steps": 1, "num_scored_samples": 1, "num_samples": 1, "report_to": "none"}
    trainer(demo, tmp_path / "out", model_path=tower_model, prompt_style="as_written", **settings).train()
    (line,) = sample_lines(tmp_path / "out")
    assert 0 < line["frames"] <= line["true_frames"]
    folders = {path.parent.name for path in (tmp_path / "out" / "samples").rglob("*.wav")}
    assert folders == {"step-000001", "true"}


@pytest.fixture
def started(demo: Path, tower_model: Path, tmp_path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run two steps with the processor that the program builds. Return the run and its settings."""
    settings = {"model_path": tower_model, "prompt_style": "as_written", "max_steps": 2, "eval_data_path": None}
    subject = trainer(demo, tmp_path / "out", **settings)
    subject.train()
    subject.components.opened.directory.close()
    yield tmp_path / "out", settings


def test_the_settings_of_a_processor_are_part_of_the_run(
    started: tuple[Path, dict[str, Any]], demo: Path, tower_model: Path, tmp_path: Path
) -> None:
    """An equal processor from a folder resumes the run. A processor with other features is refused."""
    output_dir, settings = started
    same = build_feature_extractor(HiggsAudioConfig.from_pretrained(tower_model))
    same.save_pretrained(tmp_path / "same")
    subject = trainer(demo, output_dir, **settings, whisper_processor_path=tmp_path / "same")
    assert isinstance(subject.components, FinishedRun)
    subject.components.opened.directory.close()
    WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=CHUNK_SECONDS, n_fft=512).save_pretrained(
        tmp_path / "other"
    )
    with pytest.raises(InputError, match=r"holds another run.*\n.*feature_extractor.n_fft.*400.*512"):
        trainer(demo, output_dir, **settings, whisper_processor_path=tmp_path / "other")
    identity = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))["identity"]
    assert identity["feature_extractor"]["feature_size"] == MEL_BINS
