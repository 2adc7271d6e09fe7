"""Stand-in until the part that owns this module is merged."""

import torch
from torch import Tensor

from boson_multimodal.errors import InputError


class SpeakerModel:
    name: str

    def embed(self, samples: Tensor, rate: int) -> Tensor:
        raise NotImplementedError


def load_speaker_model(path: str, revision: str | None, device: torch.device) -> SpeakerModel:
    raise InputError(f"--speaker_model {path}: no speaker model")
