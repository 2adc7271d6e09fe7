"""What ``pack`` writes about targets, so that training can draw another reference each epoch.

For each sample a shard of references holds the speaker, the target's clip and length, how many ids its two texts have,
and the group of the target's speech: targets of one group hold the same recording (:class:`SameSpeech` finds them).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boson_multimodal.prepared_data.shard_files import Ragged, Shard, write_shard
from boson_multimodal.prepared_data.target_speech import SHORTEST_SECONDS
from boson_multimodal.voice_clone_ids import VoiceCloneIds, ids_after_a_space
from boson_multimodal.worker_pool import WorkerPool
from voice_cloning.corpora.packing_jobs import PackSettings, opened, tokenizer_of

NO_SPEAKER = -1


@dataclass(frozen=True)
class Targets:
    """The trained clips of the valid samples, in the order of the samples.

    Attributes:
        clips: (samples,) number of the target's clip.
        speakers: (samples,) number of its speaker, in the order of first mention; ``NO_SPEAKER`` without one.
        places: (samples, 2) block, and row of the target's use in it.
        clip_shards: number of the shards of clips.
    """

    clips: np.ndarray
    speakers: np.ndarray
    places: np.ndarray
    clip_shards: int


@dataclass(frozen=True)
class SameSpeech:
    """Finds the targets with the same speech.

    Attributes:
        findings: what is taken for the same speech, in words. They are part of the key of a packing.
        find: gives for some targets the (samples,) int32 number of each one's group, and remarks for the manifest.
    """

    findings: tuple[str, ...]
    find: Callable[[PackSettings, Targets, WorkerPool], tuple[np.ndarray, list[str]]]


@dataclass(frozen=True)
class ReferencesJob:
    """A shard of references to write.

    Attributes:
        settings: of the packing.
        block: number of the block.
        speakers, groups, clips, frames: (samples,) of the block's targets.
    """

    settings: PackSettings
    block: int
    speakers: np.ndarray
    groups: np.ndarray
    clips: np.ndarray
    frames: np.ndarray


def find_targets(
    settings: PackSettings, blocks: Sequence[int], clip_shards: int, clips_of_uses: Callable[[int], np.ndarray]
) -> Targets:
    """Return the targets of all valid samples.

    Args:
        clip_shards: number of the shards of clips.
        clips_of_uses: gives for a block the number of the clip of each use.
    """
    numbers: dict[bytes, int] = {}
    clips, speakers, places = [], [], []
    for block in blocks:
        records = Shard(settings.records_file(block))
        rows = np.flatnonzero(records.fixed["is_valid"]).tolist()
        # In prompt style voice_clone a sample has two clips, and the second one is the target.
        uses = np.array([records.read("clips", row)[-1] for row in rows], np.int32)
        clips.append(clips_of_uses(block)[uses])
        places.append(np.stack([np.full(len(rows), block, np.int32), uses], axis=1))
        speakers.append(np.array([_speaker(records, row, numbers) for row in rows], np.int32))
    return Targets(np.concatenate(clips), np.concatenate(speakers), np.concatenate(places), clip_shards)


def _speaker(records: Shard, row: int, numbers: dict[bytes, int]) -> int:
    name = records.read_text("speaker", row)
    if not name.strip():
        return NO_SPEAKER
    return numbers.setdefault(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:16], len(numbers))


def reference_jobs(
    settings: PackSettings, targets: Targets, groups: np.ndarray, frames: np.ndarray
) -> Iterator[ReferencesJob]:
    """Yield the shards to write, one for each block with a valid sample.

    Args:
        groups: (samples,) of the targets.
        frames: (clips,) code frames of every clip.
    """
    for block in np.unique(targets.places[:, 0]).tolist():
        own = targets.places[:, 0] == block
        clips = targets.clips[own]
        yield ReferencesJob(settings, block, targets.speakers[own], groups[own], clips, frames[clips])


def write_references(job: ReferencesJob) -> None:
    """Write a shard of references."""
    path, settings = job.settings.references_file(job.block), job.settings
    if opened(path) is not None:
        return
    tokenizer = tokenizer_of(settings.model_folder)
    form = VoiceCloneIds.of(tokenizer, settings.prompt)
    samples = Shard(settings.samples_file(job.block))
    short = job.frames < SHORTEST_SECONDS * settings.frames_per_second
    lengths, texts, joined = [], [], []
    for row in range(len(samples)):
        ids = samples.read("input_ids", row).tolist()
        text = form.target(ids)
        lengths.append(form.reference_length(ids))
        texts.append(len(text))
        joined.append(np.array(ids_after_a_space(text, tokenizer) if short[row] else [], np.int32))
    fixed = {
        "speaker": job.speakers,
        "group": job.groups,
        "clip": job.clips,
        "target_frames": job.frames,
        "reference_text": np.array(lengths, np.int32),
        "target_text": np.array(texts, np.int32),
    }
    fixed = {name: column.astype(np.int32) for name, column in fixed.items()}
    write_shard(path, fixed, {"joined_ids": Ragged.of(joined, np.int32)})


def described_references(settings: PackSettings, same: SameSpeech, remarks: Sequence[str]) -> dict[str, Any]:
    """Return what the manifest says about the references, without the shards."""
    form = VoiceCloneIds.of(tokenizer_of(settings.model_folder), settings.prompt)
    return {
        "findings": list(same.findings),
        "remarks": list(remarks),
        "ids_before_reference": form.before,
        "ids_between_texts": form.between,
    }
