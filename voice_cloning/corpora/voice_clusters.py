"""Names the speakers of a source that names none: clips of one voice are grouped (``--speaker_from cluster``).

The groups are a guess, whose error was measured (``docs/voices.md``).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from boson_multimodal.audio_processing.sound_files import AudioError, Clip
from boson_multimodal.errors import InputError
from boson_multimodal.progress import progress
from boson_multimodal.worker_pool import WorkerPool, available_cores
from voice_cloning.corpora.held_clips import HELD, read_held
from voice_cloning.corpora.utterances import Cell, Channel, Collection, Member, Utterance
from voice_cloning.speech.clip_voices import VoiceCut, embed_cuts, loaded_model
from voice_cloning.speech.speaker_embedding import (
    INSTALL_RESEMBLYZER,
    LEAST_SECONDS,
    RESEMBLYZER,
    RESEMBLYZER_CALIBRATION,
    SpeakerEmbedding,
    is_resemblyzer_installed,
    scaled_vectors,
)
from voice_cloning.speech.voice_groups import by_size, mean_vectors, nearest_groups, voices_among

CLUSTERED_THRESHOLD = 0.9
"""Mean similarity from which two groups of clips are of one voice (``python -m benchmarks.clustered_voices``).

It is above the threshold for pairs of clips, because means vary less than pairs."""
MEASURED = (
    "of 10 known Arabic speakers, 99 % of the clips were in a group of their own speaker, and the number of voices was "
    "right in 94 of 100 draws"
)
SHORTEST_SECONDS = 1.0
"""Speech that a clip needs to join the nearest voice. From ``LEAST_SECONDS`` on it takes part in finding the voices."""
FEW_CLIPS = 100
"""So many clips are embedded before another process would have started."""
CUTS_AT_ONCE = 32
"""Cuts of one file that a process takes at a time."""
SHOWN_IDS = 3

Found = Mapping[str, SpeakerEmbedding | AudioError | None]
"""Place of an utterance -> its embedding, why it cannot be read, or None for too little speech."""


def speakers_by_voice(collection: Collection, threshold: float | None = None) -> None:
    """Give the usable utterances the speakers ``voice-0001``, ``voice-0002`` ..., the one with most clips first.

    A clip with too little speech joins the nearest voice, or is taken out of the collection. What was found is added to
    the facts. Clips that cannot be decoded become problems; a source without enough speech has a fault. The result does
    not depend on the order of the utterances.

    Args:
        threshold: mean similarity from which two groups are one voice; None takes ``CLUSTERED_THRESHOLD``.

    Raises:
        InputError: if Resemblyzer is not installed.
    """
    if not is_resemblyzer_installed():
        raise InputError(
            f"--speaker_from cluster: voices are compared with {RESEMBLYZER}, which is not installed; "
            f"{INSTALL_RESEMBLYZER}"
        )
    threshold = CLUSTERED_THRESHOLD if threshold is None else threshold
    utterances = sorted(collection.usable(), key=lambda u: (u.utterance_id, u.where))
    found = embed_utterances(utterances)
    for where, embedding in found.items():
        if isinstance(embedding, AudioError):
            collection.refuse(where, str(embedding))
    name_speakers(collection, utterances, found, threshold)


def name_speakers(collection: Collection, utterances: Sequence[Utterance], found: Found, threshold: float) -> None:
    """Name the speakers from the embeddings of utterances that are sorted; see :func:`speakers_by_voice`."""
    heard = [u for u in utterances if isinstance(found[u.where], SpeakerEmbedding)]
    clear = [u for u in heard if found[u.where].seconds >= LEAST_SECONDS]
    short = [u for u in heard if found[u.where].seconds < LEAST_SECONDS]
    if not clear:
        collection.faults.append(
            f"--speaker_from cluster: none of {len(utterances)} clips has {LEAST_SECONDS:g} s of speech, which a voice "
            "is recognised from; name the speakers in another way"
        )
        return
    half = RESEMBLYZER_CALIBRATION.half_seconds
    vectors, short_vectors = (scaled_vectors([found[u.where] for u in part], half) for part in (clear, short))
    voices = voices_among(vectors, threshold)
    groups = dict(zip((u.where for u in clear), voices, strict=True))
    nearest, similarity = nearest_groups(short_vectors, mean_vectors(vectors, voices))
    joining = {u.where: n for u, n, s in zip(short, nearest, similarity, strict=True) if s >= threshold}
    groups |= joining
    named = [u.where for u in utterances if u.where in groups]
    numbers = by_size(np.array([groups[where] for where in named]))
    speakers = {where: f"voice-{number + 1:04d}" for where, number in zip(named, numbers, strict=True)}
    aside = [u for u in utterances if u.where not in speakers and not isinstance(found[u.where], AudioError)]
    places = {u.where for u in aside}
    collection.utterances = [
        replace(u, speaker=speakers.get(u.where, u.speaker)) for u in collection.utterances if u.where not in places
    ]
    collection.facts += _facts(speakers, aside, len(joining), threshold)


def _facts(speakers: Mapping[str, str], aside: Sequence[Utterance], joined: int, threshold: float) -> list[str]:
    sizes = sorted(Counter(speakers.values()).values(), reverse=True)
    single = sizes.count(1)
    facts = [
        f"speakers: {len(sizes)} voices were found ({RESEMBLYZER}, mean similarity from {threshold:g} on); they have "
        f"from {sizes[0]} to {sizes[-1]} clips, the middle one {sizes[len(sizes) // 2]}"
        + (f"; voices with a single clip: {single}" if single else ""),
        f"these speakers are a guess: {MEASURED}; a voice in two rooms or at two microphones may count as two "
        "(docs/voices.md)",
    ]
    if joined:
        facts.append(
            f"clips with {SHORTEST_SECONDS:g} to {LEAST_SECONDS:g} s of speech that join the nearest voice: {joined}"
        )
    if aside:
        shown = ", ".join(u.utterance_id for u in aside[:SHOWN_IDS]) + (", ..." if len(aside) > SHOWN_IDS else "")
        facts.append(
            f"left aside, because they have too little speech to tell the voice: {len(aside)} clips, "
            f"{sum(u.seconds for u in aside) / 3600:.2f} h ({shown})"
        )
    return facts


def embed_utterances(utterances: Sequence[Utterance]) -> dict[str, SpeakerEmbedding | AudioError | None]:
    """Return place -> embedding of each utterance, in one process for each core."""
    workers = available_cores() if len(utterances) > FEW_CLIPS else 1
    if loaded_model(RESEMBLYZER).device.type == "cuda":
        workers = 1
    found: dict[str, SpeakerEmbedding | AudioError | None] = {}
    with (
        WorkerPool(workers) as pool,
        progress(title="embedding voices", total=len(utterances), unit="clip") as bar,
    ):
        for embedded in pool.stream(partial(embed_cuts, RESEMBLYZER, SHORTEST_SECONDS), _parts(utterances)):
            found.update(embedded)
            bar.update(len(embedded))
    return found


def _parts(utterances: Sequence[Utterance]) -> Iterator[list[VoiceCut]]:
    """Yield the cuts of all utterances in parts for one process: cuts of one file, or of one clip inside a data set."""
    files: dict[Path, list[VoiceCut]] = defaultdict(list)
    cells: dict[Cell | Member, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if isinstance(utterance.audio, HELD):
            cells[utterance.audio].append(utterance)
        else:
            files[utterance.file].append(_cut(utterance, utterance.file))
    for cuts in files.values():
        rest = iter(cuts)
        while part := list(islice(rest, CUTS_AT_ONCE)):
            yield part
    for cell, content in read_held(list(cells)):
        yield [_cut(utterance, content) for utterance in cells[cell]]


def _cut(utterance: Utterance, source: Path | bytes) -> VoiceCut:
    channel = utterance.audio.number if isinstance(utterance.audio, Channel) else None
    return VoiceCut(utterance.where, Clip(source, utterance.offset or 0.0, utterance.duration), channel)
