"""Stand-in until the part that owns this module is merged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from boson_multimodal.errors import InputError


@dataclass(frozen=True)
class Heard:
    samples: Tensor | None
    sampling_rate: int | None
    codes_KT: Tensor | None


class SpeechRecogniser(Protocol):
    name: str

    def transcribe(self, clips: Sequence[Heard]) -> list[str]: ...


def load_recogniser(path: str, revision: str | None, device: torch.device) -> SpeechRecogniser:
    raise InputError(f"--asr {path}: no recogniser")
