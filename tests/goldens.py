"""Where the goldens and the real samples lie, and how tests that need them skip where they are absent."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

SHARED_DIR = Path(__file__).resolve().parents[2] / "shared"
GOLDEN_DIR = SHARED_DIR / "golden"
SAMPLES_DIR = SHARED_DIR / "samples" / "arabic_speech_commands"
OWN_GOLDEN_DIR = Path(__file__).resolve().parent / "golden"
"""The project's own small set; ``python -m tests.make_goldens`` writes it again."""

needs_golden = pytest.mark.skipif(not GOLDEN_DIR.is_dir(), reason="../shared/golden is absent")
needs_samples = pytest.mark.skipif(not SAMPLES_DIR.is_dir(), reason="../shared/samples is absent")


def meta(name: str) -> dict[str, Any]:
    """What a golden says of itself."""
    return json.loads((GOLDEN_DIR / f"{name}.meta.json").read_text(encoding="utf-8"))


def tensors(name: str) -> dict[str, Tensor]:
    """A golden's tensors; ``name`` with its part, such as ``g2_fast_forward_all.inputs``."""
    return load_file(GOLDEN_DIR / f"{name}.safetensors")
