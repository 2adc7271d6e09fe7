"""Test that the program trains only the model of this repository."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.training_runs import ENVIRONMENT, PROGRAM, PROJECT, flags, trainer

ORIGINAL_PARAMETERS = (
    "input_ids inputs_embeds attention_mask audio_features audio_feature_attention_mask audio_in_ids "
    "audio_in_ids_start audio_out_ids audio_out_ids_start audio_out_ids_start_group_loc label_ids label_audio_ids "
    "past_key_values"
).split()


def test_forward_has_the_originals_parameters_in_order_and_no_labels() -> None:
    names = list(program.inspect.signature(HiggsAudioModel.forward).parameters)[1:]
    assert names[: len(ORIGINAL_PARAMETERS)] == ORIGINAL_PARAMETERS
    assert "labels" not in names


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a process group, a device or a checkpoint is touched."""

    def touched(*args: object, **kwargs: object) -> None:
        raise AssertionError("touched")

    monkeypatch.setattr(torch.distributed, "init_process_group", touched)
    monkeypatch.setattr(torch.cuda, "is_available", touched)
    monkeypatch.setattr(torch.cuda, "set_device", touched)
    monkeypatch.setattr(program, "resolve_checkpoint", touched)
    monkeypatch.setattr(program, "create_higgs_audio_lora_model", touched)


def forward_with_labels(self, input_ids=None, labels=None, label_ids=None, label_audio_ids=None):  # noqa: ANN001, ANN201
    """Have the signature of the fork."""


def forward_without_features(self, label_ids=None, label_audio_ids=None, audio_out_ids=None):  # noqa: ANN001, ANN201
    """Lack a required parameter."""


def test_a_forward_with_labels_is_refused(
    untouched: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(HiggsAudioModel, "forward", forward_with_labels)
    with pytest.raises(RuntimeError) as caught:
        trainer(tmp_path, tmp_path / "out")
    assert str(caught.value) == "Model version compatibility check failed - wrong HiggsAudioModel version"
    assert "labels=None" in caplog.text, "the signature is logged"
    assert not (tmp_path / "out").exists()


def test_a_forward_that_lacks_a_parameter_is_refused(
    untouched: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(HiggsAudioModel, "forward", forward_without_features)
    with pytest.raises(RuntimeError) as caught:
        trainer(tmp_path, tmp_path / "out")
    assert str(caught.value) == "Model missing required parameters: ['audio_features']"


def test_another_class_inside_the_wrapper_is_refused(demo: Path, tmp_path: Path) -> None:
    subject = trainer(demo, tmp_path / "out")
    subject.components.model.base_model.model.__class__ = type("HiggsAudioModel", (HiggsAudioModel,), {})
    with pytest.raises(RuntimeError, match="wrong HiggsAudioModel version"):
        subject._check_wrapped_model(subject.components.model)


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another boson_multimodal, whose forward has ``labels``."""
    folder = tmp_path_factory.mktemp("fork")
    package = folder / "boson_multimodal" / "model" / "higgs_audio"
    package.mkdir(parents=True)
    for parent in (package.parent, package.parent.parent):
        (parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text(
        "class HiggsAudioModel:\n    def forward(self, input_ids=None, labels=None):\n        pass\n"
    )
    return folder


def python(code: str, folder: Path, pythonpath: Path) -> subprocess.CompletedProcess[str]:
    env = {**ENVIRONMENT, "PYTHONPATH": str(pythonpath)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=folder)


@pytest.fixture(scope="module")
def run_beside_fork(fork: Path, demo: Path) -> str:
    """What a run prints for which the fork is first on PYTHONPATH; it encodes, trains, evaluates and saves."""
    arguments = flags(demo, fork / "out", code_cache_dir=fork / "codes", max_steps=1)
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['trainer', *{arguments!r}]\n"
        f"try:\n    runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "import boson_multimodal; print('USED', boson_multimodal.__file__)\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    result = python(code, fork, fork)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_our_package_wins_over_a_fork_that_is_first_on_pythonpath(run_beside_fork: str, fork: Path) -> None:
    assert f"USED {PROJECT / 'boson_multimodal' / '__init__.py'}" in run_beside_fork
    assert (fork / "out" / "checkpoint-000001").is_dir()


def test_training_loads_neither_librosa_nor_numba(run_beside_fork: str, fork: Path) -> None:
    assert (fork / "out" / "metrics.jsonl").is_file() and any((fork / "codes").iterdir())
    loaded = set(run_beside_fork.splitlines()[-1].split())
    assert {"LOADED", "torch", "torchaudio", "transformers"} <= loaded
    assert not {"librosa", "numba", "sklearn"} & loaded


def test_a_fork_that_was_imported_before_stops_the_program_with_both_files(fork: Path) -> None:
    code = (
        "import sys, boson_multimodal\n"
        f"sys.path.append({str(PROJECT)!r})\n"
        "import arabic_voice_cloning_distributed_trainer\n"
    )
    result = python(code, fork, fork)
    assert result.returncode != 0
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith("RuntimeError: another boson_multimodal was imported before")
    assert str(fork / "boson_multimodal" / "__init__.py") in last_line
    assert str(PROJECT / "boson_multimodal" / "__init__.py") in last_line
