"""Wrong settings and incomplete checkpoints are refused before any weight is loaded, with what would be right."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset, ArabicVoiceCloningDatasetConfig
from boson_multimodal import checkpoints
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, codec_config
from boson_multimodal.checkpoints import resolve_checkpoint
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, record, write_records
from tests.training_runs import trainer
from voice_cloning.run import data as run_data
from voice_cloning.training.config import DistributedTrainingConfig, parse_arguments
from voice_cloning.training.schedule import SCHEDULES

# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub cannot be reached, and nothing is in its local cache; the ids that were asked for."""
    asked = []

    def unreachable(repo_id: str, **_: Any) -> None:
        asked.append(repo_id)
        raise checkpoints.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(checkpoints, "snapshot_download", unreachable)
    return asked


@pytest.mark.parametrize(
    "path", ["/no/such/folder", "./no_such_folder", "no_such_folder", "~nobody-here/model", "a/b/c"]
)
def test_a_model_path_that_is_not_there_is_refused_without_asking_the_hub(path: str, offline: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(path, None, "--model_path", ())
    assert str(caught.value) == (
        f"--model_path {path}: no such folder; give a checkpoint's folder or a hub id OWNER/NAME"
    )
    assert not offline


def test_a_hub_that_cannot_be_reached_is_named(offline: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        resolve_checkpoint("bosonai/some-model", "main", "--model_path", ())
    assert offline == ["bosonai/some-model"]
    message = str(caught.value)
    assert message.startswith("--model_path bosonai/some-model: no such folder, not in the local hub cache")
    assert "download it first and give its folder" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no config.json in it; give the folder of a checkpoint"),
        ("{ oops", "its config.json is not JSON"),
        ("[]", "its config.json does not hold a JSON object"),
    ],
)
def test_a_folder_without_a_readable_configuration_is_refused(
    content: str | None, expected: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(str(tmp_path), None, "--model_path", ())
    assert str(caught.value).startswith(f"--model_path {tmp_path}: ") and expected in str(caught.value)


def test_a_file_as_model_path_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="no config.json in it"):
        resolve_checkpoint(str(path), None, "--model_path", ())


def test_a_model_in_the_place_of_the_codec_is_refused(demo: Path) -> None:
    with pytest.raises(InputError) as caught:
        codec_config(demo / "model")
    assert str(caught.value).startswith(
        f"{demo / 'model'}: config.json has model_type 'higgs_audio', not 'higgs_audio_v2"
    )
    assert "--audio_tokenizer_revision" in str(caught.value)


def test_a_checkpoint_without_weights_or_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        resolve_checkpoint(str(tmp_path), None, "--model_path", ("tokenizer.json", "*.safetensors"))
    assert str(caught.value) == (
        f"--model_path {tmp_path}: no tokenizer.json and no *.safetensors in it; give a whole checkpoint"
    )


# -- settings --------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_listed_together_each_with_what_would_be_right() -> None:
    with pytest.raises(InputError) as caught:
        DistributedTrainingConfig(
            data_path="",
            output_dir="out",
            max_steps=0,
            learning_rate=float("nan"),
            adam_beta2=1.0,
            lr_scheduler_type="sawtooth",
            torch_dtype="float16",
            weight_decay=-0.1,
            report_to=["carrier pigeon"],
        )
    heading, *lines = str(caught.value).splitlines()
    assert heading == "wrong settings (8):"
    listed = {line.split()[0]: line for line in lines}
    for name, value, right in (
        ("data_path", "is empty", "give a path"),
        ("max_steps", "is 0", "at least 1"),
        ("learning_rate", "is nan", "a number above 0"),
        ("adam_beta2", "is 1.0", "in [0, 1)"),
        ("lr_scheduler_type", "is 'sawtooth'", f"one of {list(SCHEDULES)}"),
        ("torch_dtype", "is float16", "use bfloat16"),
        ("weight_decay", "is -0.1", "at least 0"),
        ("report_to", "is ['carrier pigeon']", "some of"),
    ):
        assert value in listed[name] and right in listed[name], name


def test_wrong_dataset_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"prompt_style is 'clone'; it must be one of \['as_written', 'voice_clone'\]"):
        ArabicVoiceCloningDatasetConfig(prompt_style="clone")
    with pytest.raises(InputError, match="max_positions_per_sample is 0; it must be at least 1"):
        ArabicVoiceCloningDatasetConfig(max_positions_per_sample=0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("learning_rte: 1\nseed: 3\nbatchsize: 2\n", "unknown names (2):\n  learning_rte\n  batchsize"),
        ("- seed\n", "must hold pairs (name: value)"),
        ("seed: [1\n", "not YAML"),
        (None, "no such file"),
    ],
)
def test_a_wrong_yaml_file_is_refused(content: str | None, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        parse_arguments(["--data_path", "a.json", "--output_dir", "out", "--config", str(path)], "")
    assert str(caught.value).startswith(f"--config {path}: ") and expected in str(caught.value)


# -- before any weight is loaded -------------------------------------------------------------------------------------


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a clip is encoded or a weight is loaded."""

    def touched(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("touched")

    for owner, name in (
        (program, "load_base_model"),
        (run_data, "load_higgs_audio_tokenizer"),
        (program.HiggsAudioModel, "from_pretrained"),
        (ArabicVoiceCloningDataset, "encode_missing"),
        (HiggsAudioTokenizer, "encode"),
    ):
        monkeypatch.setattr(owner, name, touched)


def test_broken_data_is_refused_before_any_weight_is_loaded(no_weights: None, demo: Path, tmp_path: Path) -> None:
    """Both files are checked, so that one start shows all that is wrong."""
    train = write_records(tmp_path / "train.json", [record("train_1", audio("gone.wav"), audio("gone_too.wav"))])
    val = write_records(tmp_path / "val.jsonl", [record("val_1", audio("missing.wav"), audio("missing_too.wav"))])
    with pytest.raises(InputError) as caught:
        trainer(demo, tmp_path / "out", data_path=train, eval_data_path=val)
    message = str(caught.value)
    for path, sample_id, clip in ((train, "train_1", "gone.wav"), (val, "val_1", "missing.wav")):
        assert str(path) in message and f"{sample_id}: messages[1].content[1].audio_url: {tmp_path / clip}" in message
    assert not (tmp_path / "out").exists()


def test_a_model_path_that_is_not_there_is_refused_before_the_data_is_read(
    no_weights: None, demo: Path, tmp_path: Path
) -> None:
    data_path = tmp_path / "train.json"
    data_path.write_text("never read")
    with pytest.raises(InputError, match="--model_path /no/such/model: no such folder"):
        trainer(demo, tmp_path / "out", model_path="/no/such/model", data_path=data_path)
