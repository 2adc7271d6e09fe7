"""Judges clips: the text that a recogniser hears, the voice as a vector, the naturalness.

A judgement belongs to the content of a clip and to the name of its judge. It is kept in the folder of the evaluation,
so a second call, or a further recogniser, judges nothing twice.

    judgements/RANK.jsonl     {"clip": SHA-256, "judge": "text:whisper-base", "value": "..."}
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError
from boson_multimodal.process_group import Ranks
from boson_multimodal.progress import progress
from boson_multimodal.whole_files import append_whole
from voice_cloning.evaluation.naturalness import MosModel
from voice_cloning.evaluation.recognisers import Heard, SpeechRecogniser
from voice_cloning.evaluation.similarity import cosine

JUDGEMENTS_FOLDER = "judgements"
CLIPS_AT_ONCE = 8
"""Clips that a recogniser hears in one call."""
DECIMALS = 7
"""Decimals of a voice's vector that are kept: those of float32."""


class Embedder(Protocol):
    """A speaker model: (samples,) to a (D,) vector of unit length, or None if there is too little speech."""

    name: str

    def embed(self, samples: Tensor, rate: int) -> Tensor | None: ...


@dataclass(frozen=True)
class Judges:
    """The models that judge; each may be absent.

    Attributes:
        versions: what tells models of one name apart, by the name of the field. Judgements of another version are not
            taken for those of this one.
    """

    recogniser: SpeechRecogniser | None = None
    speaker_model: Embedder | None = None
    mos: MosModel | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def of_text(self) -> str:
        """The name under which recognised texts are kept. So are voices and scores under the next two."""
        return self._named("text", "recogniser")

    @property
    def of_voice(self) -> str:
        return self._named("voice", "speaker_model")

    @property
    def of_mos(self) -> str:
        return self._named("mos", "mos")

    def _named(self, kind: str, name: str) -> str:
        version = self.versions.get(name)
        return f"{kind}:{getattr(self, name).name}" + (f"@{version}" if version else "")


@dataclass(frozen=True)
class Sound:
    """A clip to judge.

    Attributes:
        key: SHA-256 of the content.
        audio: the WAV; None if there are only codes, or if the clip has no sound.
        codes: returns the (K, T) codes; None if there are none.
    """

    key: str
    audio: Path | None
    codes: Callable[[], Tensor] | None = None

    def heard(self) -> Heard:
        """Read the clip."""
        samples, rate = self.waveform() if self.audio is not None else (None, None)
        codes_KT = self.codes() if self.codes is not None else None
        return Heard(samples=samples, sampling_rate=rate, codes_KT=codes_KT)

    def waveform(self) -> tuple[Tensor, int]:
        """Return the (samples,) and their rate."""
        waveform = read_waveform(Clip(self.audio, 0.0, None))
        return waveform.samples, waveform.sampling_rate


WHAT_IS_JUDGED = {"text": "words", "voice": "voice", "mos": "naturalness"}
"""What a progress line says of each kind of judge."""


class Judgements:
    """The judgements in the folder of an evaluation. Each process appends to a file of its own. All ranks make one.

    Raises:
        InputError: if a file cannot be read or written.
    """

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self._folder = folder / JUDGEMENTS_FOLDER
        self._ranks = ranks
        self._values: dict[tuple[str, str], Any] = {}
        self.read()
        ranks.gather(None)  # no process writes before all have read, so that all know the same clips as judged

    def read(self) -> None:
        """Read what all processes have written."""
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                try:
                    record = json.loads(line)
                    self._values[record["clip"], record["judge"]] = record["value"]
                except (ValueError, KeyError, TypeError):  # the process was killed while it wrote the line
                    continue

    def get(self, sound: Sound | None, judge: str) -> Any:
        """Return the judgement of a clip, or None if there is none."""
        return None if sound is None else self._values.get((sound.key, judge))

    def fill(self, judge: str, sounds: Iterable[Sound], judged: Callable[[Sequence[Sound]], list[Any]], at_once: int):
        """Judge the clips that this judge has not judged. All ranks take part, and know all judgements afterwards.

        Args:
            sounds: the same clips in the same order on all ranks.
            judged: the judgements of up to ``at_once`` clips.
        """
        waiting = list({s.key: s for s in sounds if (s.key, judge) not in self._values}.values())
        chunks = [waiting[start : start + at_once] for start in range(0, len(waiting), at_once)]
        own = chunks[self._ranks.rank :: self._ranks.world_size]
        found: dict[tuple[str, str], Any] = {}
        kind, _, name = judge.partition(":")
        title = f"judging the {WHAT_IS_JUDGED[kind]}, {name.partition('@')[0]}"
        with progress(
            title=title, total=sum(map(len, own)), unit="clip", disable=not own or not self._ranks.is_main
        ) as bar:
            for chunk in own:
                values = judged(chunk)
                found |= {(s.key, judge): value for s, value in zip(chunk, values, strict=True)}
                self._append(chunk, judge, values)
                bar.update(len(chunk))
        for of_rank in self._ranks.gather(found):
            self._values |= of_rank

    def _append(self, sounds: Sequence[Sound], judge: str, values: Sequence[Any]) -> None:
        path = self._folder / f"{self._ranks.rank}.jsonl"
        lines = [
            json.dumps({"clip": sound.key, "judge": judge, "value": value}, ensure_ascii=False) + "\n"
            for sound, value in zip(sounds, values, strict=True)
        ]
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("ab", buffering=0) as file:
                # A line that a killed process has begun ends here, so that it spoils no other.
                append_whole(file, ("\n" + "".join(lines)).encode())
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def judge_all(judges: Judges, judgements: Judgements, spoken: Sequence[Sound], references: Sequence[Sound]) -> None:
    """Judge all clips with all judges.

    Args:
        spoken: clips of systems and recordings: text, voice, naturalness.
        references: clips whose voice alone is needed.
    """
    with_sound = [sound for sound in spoken if sound.audio is not None]
    if judges.recogniser is not None:
        transcribe = judges.recogniser.transcribe
        told = [sound for sound in spoken if sound.audio is not None or sound.codes is not None]
        judgements.fill(
            judges.of_text, told, lambda chunk: _texts(transcribe([s.heard() for s in chunk]), chunk), CLIPS_AT_ONCE
        )
    if judges.speaker_model is not None:
        model = judges.speaker_model
        voices = [*with_sound, *(sound for sound in references if sound.audio is not None)]
        judgements.fill(judges.of_voice, voices, lambda chunk: [_vector(model, s) for s in chunk], 1)
    if judges.mos is not None:
        mos = judges.mos
        judgements.fill(judges.of_mos, with_sound, lambda chunk: [_score(mos, s) for s in chunk], 1)


def similarity(judgements: Judgements, judges: Judges, one: Sound | None, other: Sound | None) -> float | None:
    """Return the cosine between the voices of two clips; None if one of them has no voice that was judged."""
    if judges.speaker_model is None:
        return None
    a, b = (judgements.get(sound, judges.of_voice) for sound in (one, other))
    if a is None or b is None:
        return None
    return cosine(torch.tensor(a), torch.tensor(b))


def _vector(model: Embedder, sound: Sound) -> list[float] | None:
    found = model.embed(*sound.waveform())
    return None if found is None else [round(number, DECIMALS) for number in found.float().cpu().tolist()]


def _score(model: MosModel, sound: Sound) -> float | None:
    found = model.score(*sound.waveform())
    return None if found is None else float(found)


def _texts(texts: list[str], sounds: Sequence[Sound]) -> list[str]:
    if len(texts) != len(sounds) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"the recogniser returned {len(texts)} results for {len(sounds)} clips; transcribe(clips) must return one "
            "text for each"
        )
    return texts
