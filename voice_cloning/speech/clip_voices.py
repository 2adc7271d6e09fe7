"""Embeds the voices of clips in several processes. Workers import this without transformers."""

import multiprocessing
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from boson_multimodal.audio_processing.sound_files import AudioError, Clip, read_samples
from boson_multimodal.worker_pool import map_in_processes
from voice_cloning.speech.speaker_embedding import LEAST_SECONDS, SpeakerEmbedding, SpeakerModel, load_speaker_model


def embed_clips(
    clips: Iterable[Clip], model: str, workers: int, is_on_gpu: bool = False
) -> dict[Clip, SpeakerEmbedding | None]:
    """Embed each clip once; all cuts of a file are read by one process."""
    cuts: dict[Path | bytes, list[Clip]] = defaultdict(list)
    for clip in dict.fromkeys(clips):
        cuts[clip.source].append(clip)
    groups = list(cuts.values())
    found = map_in_processes(
        partial(_embed_file, model), groups, 1 if is_on_gpu else workers, "embedding voices", "file"
    )
    return {
        clip: embedding
        for cut, embeddings in zip(groups, found, strict=True)
        for clip, embedding in zip(cut, embeddings, strict=True)
    }


@cache
def loaded_model(model: str) -> SpeakerModel:
    """Return a speaker model, which each process loads once."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # the other cores belong to the other processes
    return load_speaker_model(model)


@dataclass(frozen=True)
class VoiceCut:
    """A clip whose voice is embedded.

    Attributes:
        name: what the caller calls it.
        channel: counted from 0; None mixes all channels.
    """

    name: str
    clip: Clip
    channel: int | None = None


def embed_cuts(
    model: str, least_seconds: float, cuts: Sequence[VoiceCut]
) -> list[tuple[str, SpeakerEmbedding | AudioError | None]]:
    """Embed clips one by one in this process.

    Returns:
        (name, embedding) of each. In its place stands None if the clip has less than ``least_seconds`` of speech, or
        the error if it cannot be read.
    """
    loaded, found = loaded_model(model), []
    for cut in cuts:
        try:
            samples, rate = read_samples(cut.clip)
        except AudioError as error:
            found.append((cut.name, error))
            continue
        wave = samples.mean(axis=1) if cut.channel is None else samples[:, cut.channel]
        found.append((cut.name, loaded.embed(wave, rate, least_seconds)))
    return found


def _embed_file(model: str, clips: list[Clip]) -> list[SpeakerEmbedding | None]:
    found = embed_cuts(model, LEAST_SECONDS, [VoiceCut("", clip) for clip in clips])
    # What cannot be read was measured and reported before.
    return [None if isinstance(embedding, AudioError) else embedding for _, embedding in found]
