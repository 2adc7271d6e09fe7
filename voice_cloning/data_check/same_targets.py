"""Groups the targets of a data set by their speech, for ``pack``: references of other speech can then be drawn.

A group holds everything that one of the findings of the check connects. Only targets of the same speaker are compared,
because references are drawn from those alone. So the fingerprints of one speaker are in memory at a time, about 200
bytes a second of speech from codes and 460 from waveforms; of all other targets about 100 bytes each.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from boson_multimodal.audio_processing.audio_errors import AudioError
from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.sound_files import Clip, read_samples
from boson_multimodal.prepared_data.prepared_folder import ShardTable
from boson_multimodal.prepared_data.shard_files import SUFFIX, Ragged, Shard, write_shard
from boson_multimodal.progress import progress
from boson_multimodal.worker_pool import WorkerPool
from voice_cloning.corpora.packing_jobs import PackSettings, clip_of_use, clip_table, open_source, opened
from voice_cloning.corpora.packing_references import SameSpeech, Targets
from voice_cloning.data_check.code_measures import codes_fingerprint, codes_hash, shared_frames
from voice_cloning.data_check.same_clips import AMONG_ALL, compare, overlapping
from voice_cloning.data_check.same_codes import EQUAL_FRAMES
from voice_cloning.data_check.same_speech import SAME_SPEECH_SHARE, candidate_pairs, landmarks

BY_CODES = ("the same clip", "cuts of one file that overlap", "the same codes")
BY_SOUND = "the same recording by waveform"
TARGETS_OF_JOB = 1024
PAIRS_OF_JOB = 64


@dataclass(frozen=True)
class FingerprintsJob:
    """Targets to make fingerprints of.

    Attributes:
        settings: of the packing.
        number: of the job.
        clips: numbers of the clips, each once.
        places: (clips, 2) block, and row of a use of each clip.
        clip_shards: number of the shards of clips.
        by_sound: whether files are read too.
    """

    settings: PackSettings
    number: int
    clips: np.ndarray
    places: np.ndarray
    clip_shards: int
    by_sound: bool


@dataclass(frozen=True)
class PairsJob:
    """Pairs of targets to compare by waveform: the places of both uses."""

    settings: PackSettings
    pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]]


def same_speech(by_sound: bool) -> SameSpeech:
    """Return what finds targets with the same speech.

    Args:
        by_sound: compare waveforms too, where the clips' files are there.
    """
    findings = (*BY_CODES, BY_SOUND) if by_sound else BY_CODES
    return SameSpeech(findings, partial(find_groups, by_sound=by_sound))


def find_groups(
    settings: PackSettings, targets: Targets, pool: WorkerPool, *, by_sound: bool
) -> tuple[np.ndarray, list[str]]:
    """Return (samples,) the group of each target, and how many targets were not compared by waveform."""
    clips, first, of_sample = np.unique(targets.clips, return_index=True, return_inverse=True)
    places = targets.places[first]
    jobs = []
    for number, start in enumerate(range(0, len(clips), TARGETS_OF_JOB)):
        own = slice(start, start + TARGETS_OF_JOB)
        jobs.append(FingerprintsJob(settings, number, clips[own], places[own], targets.clip_shards, by_sound))
    with progress(title="making fingerprints of targets", total=len(jobs), unit="block") as bar:
        for _ in pool.stream(write_fingerprints, jobs):
            bar.update()
    prints = ShardTable([Shard(_path(job)) for job in jobs])
    groups, alike = Groups(len(clips)), []
    hashes, is_heard = prints.fixed("codes_hash"), prints.fixed("is_heard")
    cuts = tuple(prints.fixed(name) for name in ("file", "start", "seconds"))
    for members in progress(_of_speakers(targets.speakers, of_sample), "comparing targets", unit="speaker"):
        _join_cuts(members, cuts, groups)
        # Of equal codes one is compared with others: what occurs too often is not looked for (``MAX_SAME_HASH``).
        members = members[np.lexsort((is_heard[members] == 0, hashes[members]))]
        is_other = np.diff(hashes[members], prepend=~hashes[members[:1]]) != 0
        for member, equal in zip(members, members[is_other][np.cumsum(is_other) - 1], strict=True):
            groups.join(int(member), int(equal))
        different = np.sort(members[is_other])
        _join_same_codes(different, prints, groups)
        if by_sound:
            alike += _candidates(different, prints, "landmarks", AMONG_ALL)
    alike = [(one, other) for one, other in alike if groups.of(one) != groups.of(other)]
    pairs = [tuple(tuple(places[index].tolist()) for index in pair) for pair in alike]
    compared = (PairsJob(settings, pairs[at : at + PAIRS_OF_JOB]) for at in range(0, len(pairs), PAIRS_OF_JOB))
    shares = chain.from_iterable(pool.stream(compare_pairs, compared))
    for (one, other), share in zip(
        alike, progress(shares, "comparing waveforms", len(pairs), unit="pair"), strict=True
    ):
        if share >= SAME_SPEECH_SHARE:
            groups.join(one, other)
    unheard = int((is_heard == 0).sum())
    remarks = [f"{unheard} of {len(clips)} targets were compared by their codes alone: their files were not there"]
    return groups.numbers()[of_sample], remarks if by_sound and unheard else []


class Groups:
    """Things 0 to ``count`` - 1 in groups, which are joined step by step."""

    def __init__(self, count: int) -> None:
        self._above = np.arange(count, dtype=np.int32)

    def of(self, thing: int) -> int:
        """Return the number of a thing's group: its smallest member."""
        while (above := int(self._above[thing])) != thing:
            self._above[thing] = self._above[above]
            thing = above
        return thing

    def join(self, one: int, other: int) -> None:
        """Make one group of those of two things."""
        low, high = sorted((self.of(one), self.of(other)))
        self._above[high] = low

    def numbers(self) -> np.ndarray:
        """Return int32 (things,) the number of the group of each."""
        return np.array([self.of(thing) for thing in range(len(self._above))], np.int32)


def _of_speakers(speakers: np.ndarray, clips: np.ndarray) -> list[np.ndarray]:
    """Return for each speaker with several targets the indices of their clips, ascending and each once."""
    named = speakers >= 0
    pairs = np.unique(speakers[named].astype(np.int64) << 32 | clips[named])
    members = (pairs & 0xFFFFFFFF).astype(np.int32)
    starts = np.flatnonzero(np.diff(pairs >> 32, prepend=-1))
    return [found for found in np.split(members, starts[1:]) if len(found) > 1]


def _join_cuts(members: np.ndarray, cuts: tuple[np.ndarray, np.ndarray, np.ndarray], groups: Groups) -> None:
    """Join cuts of one file that overlap; ``cuts`` holds the file, the start and the seconds of each target."""
    of_file = defaultdict(list)
    for member, file, start, seconds in zip(members.tolist(), *(c[members].tolist() for c in cuts), strict=True):
        of_file[file].append((member, start, seconds))
    for found in of_file.values():
        for one, other, _ in overlapping(found):
            groups.join(one, other)


def _candidates(members: np.ndarray, prints: ShardTable, column: str, equal: int) -> list[tuple[int, int]]:
    """Return the pairs of some targets that have ``equal`` parts of their fingerprints at one time difference."""
    found = candidate_pairs([_read(prints, column, member) for member in members.tolist()], equal)
    return list(dict.fromkeys((int(members[i]), int(members[j])) for i, j, _ in found))


def _join_same_codes(members: np.ndarray, prints: ShardTable, groups: Groups) -> None:
    for one, other in _candidates(members, prints, "codes", EQUAL_FRAMES):
        share, _ = shared_frames(_read(prints, "codes", one), _read(prints, "codes", other))
        if share >= SAME_SPEECH_SHARE:
            groups.join(one, other)


def _read(prints: ShardTable, column: str, target: int) -> np.ndarray:
    return prints.read(column, target).reshape(-1, 2)


def _path(job: FingerprintsJob) -> Path:
    return job.settings.blocks / f"speech-{job.number:05d}{SUFFIX}"


def write_fingerprints(job: FingerprintsJob) -> None:
    """Write the fingerprints of some targets: of their codes, of their waveforms, and where they lie in their files."""
    path, settings = _path(job), job.settings
    if opened(path) is not None:
        return
    uses = {block: Shard(settings.uses_file(block)) for block in np.unique(job.places[:, 0]).tolist()}
    table = clip_table(settings, job.clip_shards)
    cuts = [clip_of_use(uses[block], row)[0] for block, row in job.places.tolist()]
    codes = [table.read("codes", number).reshape(settings.num_codebooks, -1) for number in job.clips.tolist()]
    sounds = [_landmarks(cut) if job.by_sound else None for cut in cuts]
    fixed = {
        "codes_hash": np.array([int(codes_hash(codes_KT)[:16], 16) for codes_KT in codes], np.uint64),
        "file": np.array([_file_hash(settings, cut) for cut in cuts], np.uint64),
        "start": np.array([cut.offset for cut in cuts], np.float32),
        "seconds": np.array([codes_KT.shape[1] / settings.frames_per_second for codes_KT in codes], np.float32),
        "is_heard": np.array([sound is not None for sound in sounds], np.uint8),
    }
    none = np.zeros((0, 2), np.uint32)
    ragged = {
        "codes": Ragged.of([codes_fingerprint(codes_KT) for codes_KT in codes], np.uint32),
        "landmarks": Ragged.of([none if sound is None else sound for sound in sounds], np.uint32),
    }
    write_shard(path, fixed, ragged)


def _landmarks(cut: Clip) -> np.ndarray | None:
    """Return the landmarks of a clip; None if its file is not there any more, which its codes do not need."""
    try:
        samples, rate = read_samples(cut)
    except AudioError:
        return None
    return landmarks(samples.mean(axis=1), rate)


def _file_hash(settings: PackSettings, cut: Clip) -> int:
    """Return a hash of the content of a clip's file, or of its path if codes come from files."""
    source = open_source(settings)
    if isinstance(source, CodeCache):
        known = bytes.fromhex(source.hashes.of(cut.source)[0])
    else:
        path = cut.source if isinstance(cut.source, bytes) else str(cut.source).encode("utf-8", "surrogatepass")
        known = hashlib.sha256(path).digest()
    return int.from_bytes(known[:8], "little")


def compare_pairs(job: PairsJob) -> list[float]:
    """Return the share of the speech of each pair that is one recording (see ``shared_share``)."""
    places = {place for pair in job.pairs for place in pair}
    uses = {block: Shard(job.settings.uses_file(block)) for block in {block for block, _ in places}}
    cuts = {(block, row): clip_of_use(uses[block], row)[0] for block, row in places}
    return [compare((cuts[one], cuts[other])) for one, other in job.pairs]
