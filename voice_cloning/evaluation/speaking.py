"""Speaks a test set with the systems of an evaluation. What has been spoken before is not spoken again.

A clip depends on its prompt, the system, and a seed made of (seed, item, piece), so base and adapters draw the same
random numbers. Batches are formed of the whole set and then dealt out: neither the number of processes nor a resumed
call changes the batch in which a clip is made.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boson_multimodal.process_group import Ranks
from boson_multimodal.progress import progress
from boson_multimodal.seeds import seed_of
from voice_cloning.evaluation.spoken_files import ClipFile, ClipRecord
from voice_cloning.speech.requests import SpeechRequest
from voice_cloning.speech.speech import SpokenPiece
from voice_cloning.speech.voice_cloner import VoiceCloner
from voice_cloning.training.log import peak_memory_gb


@dataclass(frozen=True)
class ClipToSpeak:
    """One clip of a system: a request and a seed."""

    request: SpeechRequest
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """The item and the seed, which name the clip among those of a system."""
        return self.request.name, self.seed

    @property
    def name(self) -> str:
        """The name of the clip's files."""
        return f"{self.request.name}.{self.seed}"

    def seeds(self) -> list[int]:
        """Return the seed of each piece."""
        item = int.from_bytes(hashlib.sha256(self.request.name.encode()).digest()[:8], "big")
        return [seed_of(self.seed, item, piece) for piece in range(len(self.request.pieces))]

    def made_of(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Return everything that determines the clip, from the identity of its request (``VoiceCloner.identity``)."""
        return {**identity, "seed": self.seed, "item": self.request.name}


def speak_set(
    cloner: VoiceCloner,
    clips: Sequence[ClipToSpeak],
    folder: Path,
    system: str,
    *,
    batch_size: int,
    ranks: Ranks,
) -> dict[tuple[str, int], ClipRecord]:
    """Speak the clips of one system that are not there yet, and write them.

    Args:
        cloner: its model is loaded only if there is something to speak.
        clips: all clips of the system, in the same order on all ranks.
        folder: of the evaluation.
        batch_size: pieces that are spoken at once.

    Returns:
        The record of every clip by item and seed, on every rank.

    Raises:
        InputError: if a file cannot be written.
    """
    files = {clip.key: ClipFile(folder, system, clip.name) for clip in clips}
    # References are hashed and prompts are tokenized once for all seeds.
    identities = {
        request.name: cloner.identity(request) for request in {c.request.name: c.request for c in clips}.values()
    }
    made_of = {clip.key: clip.made_of(identities[clip.request.name]) for clip in clips}
    found = {key: record for key, file in files.items() if (record := file.found(made_of[key]))}
    ranks.gather(None)  # no process writes before all have looked
    batches = [b for b in batches_of(clips, cloner, batch_size) if any(clip.key not in found for clip in b)]
    own = batches[ranks.rank :: ranks.world_size]
    with progress(
        title=f"speaking, {system}", total=sum(map(len, own)), unit="clip", disable=not own or not ranks.is_main
    ) as bar:
        for batch, pieces, cost in _spoken(cloner, own, batch_size):
            for clip, spoken in zip(batch, pieces, strict=True):
                if clip.key not in found:
                    found[clip.key] = _write(cloner, files[clip.key], made_of[clip.key], spoken, cost)
            bar.update(len(batch))
    together: dict[tuple[str, int], ClipRecord] = {}
    for of_rank in ranks.gather(found):
        together |= of_rank
    return {clip.key: together[clip.key] for clip in clips}


def batches_of(clips: Sequence[ClipToSpeak], cloner: VoiceCloner, batch_size: int) -> list[list[ClipToSpeak]]:
    """Divide clips into batches of about ``batch_size`` pieces with similar lengths.

    The result depends on the set of clips alone, not on their order, on what is spoken already, or on the ranks.
    """
    longest = {clip.key: max(map(cloner.most_columns, clip.request.pieces)) for clip in clips}
    batches: list[list[ClipToSpeak]] = []
    pieces = batch_size
    for clip in sorted(clips, key=lambda clip: (longest[clip.key], clip.key)):
        if pieces >= batch_size:
            batches.append([])
            pieces = 0
        batches[-1].append(clip)
        pieces += len(clip.request.pieces)
    return batches


def _spoken(
    cloner: VoiceCloner, batches: Sequence[list[ClipToSpeak]], batch_size: int
) -> Iterator[tuple[list[ClipToSpeak], list[tuple[SpokenPiece, ...]], dict[str, float]]]:
    """Speak batches. Yield each one with the pieces of its clips and what one clip cost."""
    if not batches:
        return
    _ = cloner.model  # loaded and switched here, which is no cost of a clip
    for batch in batches:
        if cloner.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(cloner.device)
        started = time.perf_counter()
        queue = [(piece, clip.request.base_dir) for clip in batch for piece in clip.request.pieces]
        seeds = [seed for clip in batch for seed in clip.seeds()]
        spoken: list[SpokenPiece] = []
        for start in range(0, len(queue), batch_size):
            part = slice(start, start + batch_size)
            spoken += cloner.speak_pieces(queue[part], seeds[part])
        seconds = (time.perf_counter() - started) / len(batch)
        cost = {"compute_seconds": round(seconds, 4), "peak_memory_gb": round(peak_memory_gb(cloner.device), 3)}
        pieces = []
        for clip in batch:
            pieces.append(tuple(spoken[: len(clip.request.pieces)]))
            del spoken[: len(clip.request.pieces)]
        yield batch, pieces, cost


def _write(
    cloner: VoiceCloner,
    file: ClipFile,
    made_of: dict[str, Any],
    pieces: tuple[SpokenPiece, ...],
    cost: dict[str, float],
) -> ClipRecord:
    codes_KT = torch.cat([piece.codes for piece in pieces], dim=1)
    failures = [piece.failure for piece in pieces if piece.failure]
    samples, rate, seconds = None, 0, codes_KT.shape[1] / cloner.frames_per_second
    if not cloner.speaks_codes_only:
        started = time.perf_counter()
        speech = cloner.joined(pieces)
        samples, rate, seconds = speech.samples, speech.sampling_rate, speech.seconds
        cost = {**cost, "compute_seconds": round(cost["compute_seconds"] + time.perf_counter() - started, 4)}
    return file.write(
        made_of,
        codes_KT,
        samples,
        rate,
        ended=not any(piece.failure and piece.codes.shape[1] for piece in pieces),  # an empty piece has ended too soon
        failures=failures,
        frames=codes_KT.shape[1],
        seconds=round(seconds, 4),
        **cost,
    )
