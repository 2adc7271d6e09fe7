"""Measures whether speech has the wanted voice: SIM, the cosine of the embeddings of two clips.

    model = load_speaker_model("resemblyzer")
    sim = cosine(model.embed(spoken, 24_000), model.embed(reference, 16_000))

The embeddings are those of :mod:`voice_cloning.speech.speaker_embedding`. SIM is the plain cosine, as published figures
are. Its scale is the model's own: with Resemblyzer two clips of different speakers have 0.5 to 0.8, with an x-vector
model much less. So a SIM means something only beside that of true recordings and of other speakers, by the same model.
"""

from typing import Self

import torch
from torch import Tensor

from boson_multimodal.checkpoints import short_name
from voice_cloning.speech import speaker_embedding

LEAST_SECONDS = 0.5
"""Speech that a clip needs for a SIM. The less there is, the lower the SIM of the same voice."""


class SpeakerModel:
    """A speaker model for clips of any length.

    Args:
        model: embeds; its weights may not be loaded yet.

    Attributes:
        name: how reports call it: ``resemblyzer``, the name of its folder, or its hub id.
    """

    def __init__(self, model: speaker_embedding.SpeakerModel, name: str) -> None:
        self.name = name
        self._model = model

    def load(self) -> Self:
        """Load the weights, and return this model. Raises ``InputError`` if they are damaged or incomplete."""
        self._model.load()
        return self

    def embed(self, samples: Tensor, sampling_rate: int) -> Tensor | None:
        """Return the (D,) embedding of unit length of (samples,), on the CPU; None if it has less than 0.5 s of speech.

        Only the first 60 s are used.

        Raises:
            InputError: if the model's embeddings are not finite.
        """
        wave = samples.detach().float().cpu().numpy()
        found = self._model.embed(wave, sampling_rate, least_seconds=LEAST_SECONDS)
        return None if found is None else torch.from_numpy(found.vector)


def load_speaker_model(name: str, revision: str | None = None, device: torch.device | None = None) -> SpeakerModel:
    """Find a speaker model (:func:`find_speaker_model`), and load its weights.

    Raises:
        InputError: for the reasons of :func:`find_speaker_model`, or if the weights are damaged or incomplete.
    """
    return find_speaker_model(name, revision, device).load()


def find_speaker_model(name: str, revision: str | None = None, device: torch.device | None = None) -> SpeakerModel:
    """Return a speaker model that was checked. Its weights are not loaded yet.

    Args:
        name: ``resemblyzer``, or a folder or hub id of a transformers model with an x-vector head.
        revision: the hub's commit, branch or tag; it is ignored for a folder and for Resemblyzer.
        device: None takes the GPU if there is one.

    Raises:
        InputError: if the package is missing, or the model is not there or of another kind.
    """
    model = speaker_embedding.find_speaker_model(name, device, revision)
    is_package = name == speaker_embedding.RESEMBLYZER
    return SpeakerModel(model, name if is_package else short_name(name, revision))


def cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of two (D,) embeddings of any length, in -1..1."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0).clamp(-1.0, 1.0))
