"""Flags: YAML pairs, help texts, defaults, and mistyped names."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.errors import InputError
from tests.training_runs import flags
from voice_cloning import __version__
from voice_cloning.training.config import DistributedTrainingConfig


def test_a_mistyped_flag_gets_the_closest_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.parse_arguments(["--data_path", "a", "--output_dir", "b", "--lora_target", "heads"], "")
    assert end.value.code == 2
    assert "unknown: --lora_target heads; did you mean --lora_targets?" in capsys.readouterr().err


def test_yaml_pairs_are_flags_and_flags_win(demo: Path, tmp_path: Path) -> None:
    yaml = tmp_path / "run.yaml"
    yaml.write_text("learning_rate: 1e-5\nlora_targets: [heads, attention]\ngradient_checkpointing: true\nseed: 7\n")
    training, _, lora, _ = program.parse_arguments([*flags(demo, tmp_path), "--config", str(yaml), "--seed", "9"], "")
    assert (training.learning_rate, training.seed, training.gradient_checkpointing) == (3e-3, 9, True)
    assert lora.lora_targets == ["heads", "attention"]


def test_a_list_that_takes_the_place_of_another_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["--output_dir", "o", "--data_path", "a.json"]
    assert program.parse_arguments([*words, "--data_path", "a.json"], "")[0].data_path == ["a.json"]
    assert not caplog.records
    assert program.parse_arguments([*words, "--data_path", "b.json", "c"], "")[0].data_path == ["b.json", "c"]
    assert caplog.messages == [
        "--data_path b.json c takes the place of a.json, which was given before; all values go after one --data_path"
    ]
    yaml = tmp_path / "run.yaml"
    yaml.write_text("data_path: [a.json, b]\ndata_weights: [7, 3]\noutput_dir: o\n")
    config = program.parse_arguments(["--config", str(yaml)], "")[0]
    assert (config.data_path, config.data_weights) == (["a.json", "b"], [7.0, 3.0])


def test_every_flag_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.parse_arguments(["--help"], "")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for config in (
        program.DistributedTrainingConfig,
        program.ArabicVoiceCloningDatasetConfig,
        program.HiggsAudioLoRATrainingConfig,
        program.LossConfig,
    ):
        for field in dataclasses.fields(config):
            assert f"--{field.name}" in text
            assert field.metadata["help"]


def test_only_the_two_paths_have_no_default() -> None:
    required = [f.name for f in dataclasses.fields(program.DistributedTrainingConfig) if _is_required(f)]
    assert required == ["data_path", "output_dir"]


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program.parse_arguments(["--version"], "")
    assert end.value.code == 0
    assert capsys.readouterr().out.split()[-1] == __version__


def test_flags_of_speech_are_checked_together_and_need_evaluation_data() -> None:
    def config(**settings: Any) -> DistributedTrainingConfig:
        return DistributedTrainingConfig(data_path="a", output_dir="b", **settings)

    with pytest.raises(InputError) as caught:
        config(eval_data_path="c", sample_every=0, num_scored_samples=-1, num_samples=-2)
    for problem in ("sample_every is 0; it must be at least 1", "num_samples is -2; it must be at least 0"):
        assert problem in str(caught.value)
    assert "num_scored_samples is -1; it must be at least 0" in str(caught.value)
    with pytest.raises(InputError) as caught:
        config(sample_every=5, num_scored_samples=8, num_samples=2)
    for given in ("sample_every is 5", "num_scored_samples is 8", "num_samples is 2"):
        assert f"{given}, and eval_data_path is not given" in str(caught.value)
    assert not config().speaks and not config(num_scored_samples=0, num_samples=0).speaks
    assert not config(eval_data_path="c", num_scored_samples=0).speaks_at(200, True)


def test_speech_is_due_at_evaluations_unless_it_has_steps_of_its_own() -> None:
    def due(**settings: Any) -> list[int]:
        config = DistributedTrainingConfig(data_path="a", output_dir="b", eval_data_path="c", eval_steps=4, **settings)
        return [step for step in range(1, 11) if config.speaks_at(step, step == 10)]

    assert due() == [4, 8, 10]
    assert due(sample_every=3) == [3, 6, 9, 10]
    assert due(sample_every=100) == [10]


@pytest.mark.parametrize("sample_every", [3, 8])
def test_an_evaluation_without_speech_cannot_be_compared_by_speech(sample_every: int) -> None:
    known = {"data_path": "a", "output_dir": "b", "eval_data_path": "c", "eval_steps": 4, "keep_best_by": "stop_rate"}
    for sound in (None, 1, 2, 4):
        DistributedTrainingConfig(**known, sample_every=sound)
    message = f"keep_best_by is stop_rate, and sample_every {sample_every} does not divide eval_steps 4"
    with pytest.raises(InputError, match=message):
        DistributedTrainingConfig(**known, sample_every=sample_every)
