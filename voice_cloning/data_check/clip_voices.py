"""Embeds the voices of clips in several processes. Workers import this without transformers."""

import multiprocessing
from collections import defaultdict
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

import torch

from boson_multimodal.audio_processing.sound_files import AudioError, Clip, read_samples
from boson_multimodal.worker_pool import map_in_processes
from voice_cloning.speech.speaker_embedding import SpeakerEmbedding, SpeakerModel, load_speaker_model


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


def _embed_file(model: str, clips: list[Clip]) -> list[SpeakerEmbedding | None]:
    loaded, found = loaded_model(model), []
    for clip in clips:
        try:
            samples, rate = read_samples(clip)
        except AudioError:
            found.append(None)  # measured and reported before
            continue
        found.append(loaded.embed(samples.mean(axis=1), rate))
    return found
