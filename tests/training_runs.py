"""How tests start the program: in this process with small configurations, or as a command of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from voice_cloning.training.config import parse_arguments

PROJECT = Path(program.__file__).resolve().parent
PROGRAM = Path(program.__file__).resolve()
EVERY_GROUP = ["attention", "text_mlp", "audio_mlp", "heads", "audio_embeddings"]
TIMED = ("tokens_per_second", "frames_per_second", "peak_memory_gb", "spoken_seconds", "spoken_share")
"""Metrics that no two runs share."""


def flags(demo: Path, output_dir: Path, **overrides: Any) -> list[str]:
    """A short run on the demo: 6 steps, an evaluation and a checkpoint on the way, without speech."""
    settings: dict[str, Any] = {
        "data_path": demo / "train_chatml_samples.json",
        "eval_data_path": demo / "val_chatml_samples.json",
        "model_path": demo / "model",
        "audio_tokenizer_path": demo / "audio_tokenizer",
        "code_cache_dir": demo / "code_cache",
        "output_dir": output_dir,
        "max_steps": 6,
        "max_tokens_per_batch": 512,
        "learning_rate": 3e-3,
        "lora_dropout": 0.1,
        "logging_steps": 2,
        "eval_steps": 4,
        "save_steps": 3,
        "num_scored_samples": 0,
        "report_to": "none",
        **overrides,
    }
    return [word for name, value in settings.items() if value is not None for word in _words(name, value)]


def _words(name: str, value: Any) -> list[str]:
    return [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]


def trainer(demo: Path, output_dir: Path, **overrides: Any) -> ArabicVoiceCloningDistributedTrainer:
    """A trainer in this process."""
    return ArabicVoiceCloningDistributedTrainer(*parse_arguments(flags(demo, output_dir, **overrides), ""))


def command(arguments: list[str], processes: int | None = None, script: Path = PROGRAM) -> list[str]:
    """The program's command line, by ``python`` or by ``torchrun`` with so many processes."""
    if processes is None:
        return [sys.executable, str(script), *arguments]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launcher, str(script), *arguments]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""One thread per process: another number of threads adds in another order, and so changes the last bits."""


def run(words: list[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, cwd=PROJECT)


def metrics(output_dir: Path, timed: bool = False) -> list[dict[str, float]]:
    """Lines of metrics.jsonl, without what depends on the clock."""
    lines = (output_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return records if timed else [{k: v for k, v in r.items() if k not in TIMED} for r in records]


def adapter(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "adapter_model.safetensors")


def assert_same_adapter(one: Path, other: Path) -> None:
    """Bit for bit."""
    first, second = adapter(one), adapter(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
