"""Keeps in files what was measured of clips: a killed command goes on, and another bound measures nothing again.

    measures/clips.jsonl         {"clip": KEY, "value": {...}}     the measures of ``clip_measures``
    measures/voices.jsonl        the embeddings of a speaker model
    measures/recognised.jsonl    what a recogniser heard

A key holds the SHA-256 of the file and the cut, so a clip that changed is measured anew, and a clip that moved is not.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError
from boson_multimodal.progress import progress
from boson_multimodal.whole_files import append_whole
from boson_multimodal.worker_pool import CHUNK, WorkerPool, map_in_processes
from voice_cloning.data_check.check import cuts_of_files
from voice_cloning.data_check.clip_measures import ClipMeasures, content_of, measure_file
from voice_cloning.data_check.samples import CheckedSample
from voice_cloning.evaluation.recognisers import Heard, RecogniserInFolder, SpeechRecogniser
from voice_cloning.speech.clip_voices import embed_clips
from voice_cloning.speech.speaker_embedding import SpeakerEmbedding

FOLDER = "measures"
FORM = "1"
"""A part of the keys of measures. Count it up when a measure changes, so that older values are not taken for it."""
MEASURED = tuple(f.name for f in fields(ClipMeasures) if f.name not in ("content", "problems", "landmarks", "codes"))
VOICES_AT_ONCE = 1000
CLIPS_AT_ONCE = 8
"""Clips that a recogniser hears before their texts are kept."""


class KeptValues:
    """Values by key in a file of JSON lines. Each value is appended as soon as it is known.

    Raises:
        InputError: if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        for line in lines:
            try:
                record = json.loads(line)
                self._values[record["clip"]] = record["value"]
            except (ValueError, KeyError, TypeError):  # the process was killed while it wrote the line
                continue

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def add(self, values: Mapping[str, Any]) -> None:
        """Keep values."""
        lines = [json.dumps({"clip": key, "value": value}, ensure_ascii=False) + "\n" for key, value in values.items()]
        self._values |= values
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                # A line that a killed process has begun ends here, so that it spoils no other.
                append_whole(file, ("\n" + "".join(lines)).encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror})") from error


def measure_and_keep(samples: Sequence[CheckedSample], folder: Path, workers: int) -> dict[Clip, ClipMeasures]:
    """Return the measures of every clip of the samples; measure those that ``folder`` does not hold, and keep them.

    Clips that cannot be used are not kept: the reason names their file.
    """
    kept = KeptValues(folder / FOLDER / "clips.jsonl")
    groups = cuts_of_files(samples)
    found: dict[Clip, ClipMeasures] = {}
    if len(kept):
        sources = [cuts[0].source for cuts in groups]
        contents = map_in_processes(content_of, sources, workers, "reading clips", "file")
        for cuts, content in zip(groups, contents, strict=True):
            found |= {clip: m for clip in cuts if (m := _kept(clip, content, kept)) is not None}
    new = [[clip for clip in cuts if clip not in found] for cuts in groups]
    new = [cuts for cuts in new if cuts]
    with WorkerPool(min(workers, -(-len(new) // CHUNK))) as pool:
        measured = pool.stream(measure_file, new)
        bar = progress(measured, "measuring clips", len(new), unit="file", disable=not new)
        for cuts, of_file in zip(new, bar, strict=True):
            found |= dict(zip(cuts, of_file, strict=True))
            values = {
                key_of(clip, m.content): _values_of(m)
                for clip, m in zip(cuts, of_file, strict=True)
                if m.content and not m.problems
            }
            if values:
                kept.add(values)
    return {clip: found[clip] for cuts in groups for clip in cuts}


def embed_and_keep(
    measures: Mapping[Clip, ClipMeasures],
    folder: Path,
    clips: Sequence[Clip],
    model: str,
    workers: int,
    is_on_gpu: bool,
) -> dict[Clip, SpeakerEmbedding | None]:
    """Return the embeddings of clips as ``embed_clips``; compute those that ``folder`` does not hold, and keep them."""
    kept = KeptValues(folder / FOLDER / "voices.jsonl")
    keys = {clip: f"{key_of(clip, measures[clip].content)} {model}" for clip in clips}
    new = [clip for clip in clips if keys[clip] not in kept]
    for start in range(0, len(new), VOICES_AT_ONCE):
        batch = new[start : start + VOICES_AT_ONCE]
        embedded = embed_clips(batch, model, workers, is_on_gpu)
        kept.add({keys[clip]: _voice_value(embedding) for clip, embedding in embedded.items()})
    return {clip: _embedding(kept[keys[clip]]) for clip in clips}


def recognise_and_keep(
    clips: Sequence[Clip],
    measures: Mapping[Clip, ClipMeasures],
    folder: Path,
    recogniser: SpeechRecogniser,
    version: str,
) -> dict[Clip, str]:
    """Return what a recogniser hears in each clip; those that ``folder`` holds are not recognised again.

    Args:
        version: what tells recognisers of one name apart.

    Raises:
        InputError: if the recogniser does not return one text for each clip.
    """
    kept = KeptValues(folder / FOLDER / "recognised.jsonl")
    keys = {clip: f"{key_of(clip, measures[clip].content)} {recogniser.name}@{version}" for clip in clips}
    new = list({keys[clip]: clip for clip in reversed(clips) if keys[clip] not in kept}.values())[::-1]
    title = f"recognising, {recogniser.name}"
    if new and isinstance(recogniser, RecogniserInFolder):
        recogniser.load()
    with progress(title=title, total=len(new), unit="clip", disable=not new) as bar:
        for start in range(0, len(new), CLIPS_AT_ONCE):
            batch = new[start : start + CLIPS_AT_ONCE]
            waves = [read_waveform(clip) for clip in batch]
            texts = recogniser.transcribe([Heard(samples=w.samples, sampling_rate=w.sampling_rate) for w in waves])
            if len(texts) != len(batch) or not all(isinstance(text, str) for text in texts):
                raise InputError(f"--asr {recogniser.name}: returned {len(texts)} results for {len(batch)} clips")
            kept.add({keys[clip]: text for clip, text in zip(batch, texts, strict=True)})
            bar.update(len(batch))
    return {clip: kept[keys[clip]] for clip in clips}


def key_of(clip: Clip, content: str) -> str:
    """Return the key of a clip of a file that has the given SHA-256."""
    return f"{FORM} {content} {clip.offset!r} {clip.duration!r}"


def _values_of(measured: ClipMeasures) -> dict[str, Any]:
    held = {name: getattr(measured, name) for name in MEASURED}
    return held | {"landmarks": base64.b64encode(measured.landmarks.astype("<u4").tobytes()).decode()}


def _kept(clip: Clip, content: str, kept: KeptValues) -> ClipMeasures | None:
    """Return the measures of a clip; None if they are not kept, or not in this form."""
    key = key_of(clip, content)
    if not content or key not in kept:
        return None
    try:
        marks = np.frombuffer(base64.b64decode(kept[key]["landmarks"]), "<u4").reshape(-1, 2)
        return replace(ClipMeasures(content), landmarks=marks, **{name: kept[key][name] for name in MEASURED})
    except (ValueError, KeyError, TypeError):
        return None


def _voice_value(embedding: SpeakerEmbedding | None) -> list[Any] | None:
    if embedding is None:
        return None
    return [base64.b64encode(embedding.vector.astype("<f4").tobytes()).decode(), embedding.seconds]


def _embedding(value: list[Any] | None) -> SpeakerEmbedding | None:
    return None if value is None else SpeakerEmbedding(np.frombuffer(base64.b64decode(value[0]), "<f4"), value[1])
