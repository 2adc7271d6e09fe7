"""What only a CUDA device can show of whole runs and of the codec; see ``tests/test_gpu.py``."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch

from benchmarks.full_size_step import NULL_CUDA
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, load_higgs_audio_tokenizer
from tests.training_runs import adapter, assert_same_adapter, metrics, trainer
from tests.voice_cloning.training.test_resume import crash_after

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Algorithms that repeat their results to the last bit; the gradient of varlen attention has no order otherwise."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_bfloat16_training_learns(demo: Path, tmp_path: Path, gradient_checkpointing: bool) -> None:
    settings = {"max_steps": 12, "logging_steps": 1, "gradient_checkpointing": gradient_checkpointing}
    subject = trainer(demo, tmp_path / "out", **settings)
    assert subject.placement.device.type == "cuda" and subject.placement.dtype == torch.bfloat16
    assert subject.train().finished
    values = [line["loss"] for line in metrics(tmp_path / "out") if "loss" in line]
    assert values[-1] < values[0] - 0.2


def test_a_first_step_in_float32_is_that_of_the_cpu(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses and gradients, without dropout, whose masks differ between devices."""
    settings = {"max_steps": 1, "logging_steps": 1, "lora_dropout": 0.0, "torch_dtype": "float32"}
    trainer(demo, tmp_path / "device", **settings).train()
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        trainer(demo, tmp_path / "cpu", **settings).train()
    on_device, on_cpu = metrics(tmp_path / "device")[0], metrics(tmp_path / "cpu")[0]
    assert on_device == pytest.approx(on_cpu, rel=1e-4)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("torch_dtype", ["bfloat16", "float32"])
def test_a_crashed_run_ends_with_the_bits_of_an_uninterrupted_one(demo: Path, tmp_path: Path, torch_dtype: str) -> None:
    """With dropout, in the middle of an epoch and of a logging interval."""
    uninterrupted, crashed = tmp_path / "uninterrupted", tmp_path / "crashed"
    settings = {"max_steps": 8, "logging_steps": 5, "save_steps": 3, "torch_dtype": torch_dtype}
    summary = trainer(demo, uninterrupted, **settings).train()
    crash_after(trainer(demo, crashed, **settings), 5)
    if NULL_CUDA in os.environ:
        pytest.skip("the null device says that AdamW has made 0 steps, so its checkpoints are rightly refused")
    crash_after(trainer(demo, crashed, **settings), 7)
    assert trainer(demo, crashed, **settings).train().finished
    assert_same_adapter(summary.checkpoint, crashed / summary.checkpoint.name)
    assert metrics(crashed) == metrics(uninterrupted)


@pytest.mark.usefixtures("deterministic")
def test_the_same_seed_gives_the_same_run_and_another_seed_another(demo: Path, tmp_path: Path) -> None:
    runs = {name: trainer(demo, tmp_path / name, seed=seed).train() for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    assert_same_adapter(runs["a"].checkpoint, runs["b"].checkpoint)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    one, other = adapter(runs["a"].checkpoint), adapter(runs["c"].checkpoint)
    assert not any(torch.equal(one[name], other[name]) for name in one if "lora_B" in name)


def test_codes_of_the_device_are_those_of_the_cpu(demo: Path, codec: HiggsAudioTokenizer) -> None:
    """A frame in the middle between two codes may take either, and so its later codebooks may too."""
    on_device = load_higgs_audio_tokenizer(demo / "audio_tokenizer", "cuda")
    clips = sorted((demo / "clips").rglob("*.wav"))[:4]
    waves = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in clips]
    pairs = [(on_device.encode(wave[None])[0], codec.encode(wave[None])[0]) for wave in waves]
    equal = torch.cat([one == other for one, other in pairs], dim=1).float().mean(1)
    assert float(equal[0]) >= 0.99 and float(equal.min()) >= 0.9, equal
