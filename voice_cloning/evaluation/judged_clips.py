"""Brings together what is known of each clip: its sentence, its measures, and what the judges said of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from voice_cloning.evaluation.finished_wavs import FinishedWav
from voice_cloning.evaluation.judgement import Judgements, Judges, Sound, similarity
from voice_cloning.evaluation.originals import Original, Originals
from voice_cloning.evaluation.report import JudgedClip
from voice_cloning.evaluation.spoken_files import ClipFile, ClipRecord
from voice_cloning.evaluation.test_sets import TestItem
from voice_cloning.evaluation.word_errors import text_errors, word_alignment
from voice_cloning.training.spoken_figures import measure_clip

TRUE, DECODED, OTHERS = "true recordings", "recordings through the codec", "other speakers"
"""Names of the scales."""
ALIGNED = "scoring"
"""The normalisation after which words are aligned."""


def spoken_sound(folder: Path, system: str, name: str, record: ClipRecord) -> Sound | None:
    """Return a spoken clip to judge; None if it has no frame."""
    if record.frames == 0:
        return None
    file = ClipFile(folder, system, name)
    return Sound(record.sha256, file.audio_path if record.audio_sha256 else None, file.codes_KT)


@dataclass(frozen=True)
class JudgedSet:
    """A set with its clips and all judgements.

    Attributes:
        folder: of the evaluation.
        items: the sentences.
        originals: the clips of the set.
        judges, judgements: who judged, and what they said.
        normalisations: names of normalisations for which errors are counted.
    """

    folder: Path
    items: Sequence[TestItem]
    originals: Originals
    judges: Judges
    judgements: Judgements
    normalisations: Sequence[str]

    def spoken(self, system: str, item: TestItem, seed: int, record: ClipRecord) -> JudgedClip:
        """Return a clip that the evaluation has spoken."""
        name = f"{item.name}.{seed}"
        file, sound = ClipFile(self.folder, system, name), spoken_sound(self.folder, system, name, record)
        clip = self._clip(
            item,
            sound,
            codes_KT=file.codes_KT(),
            audio=file.audio_name if record.audio_sha256 else None,
            ended=record.ended,
            seed=seed,
            seconds=record.seconds,
        )
        return replace(clip, compute_seconds=record.compute_seconds, peak_memory_gb=record.peak_memory_gb)

    def finished(self, item: TestItem, wav: FinishedWav) -> JudgedClip:
        """Return a clip of a folder of WAVs."""
        return self._without_codes(item, wav.sound, wav.audio, wav.ended, wav.seed, wav.seconds, wav.frames)

    def scales(self) -> dict[str, list[JudgedClip]]:
        """Return the clips of the set as if they were systems, by the name of the scale."""
        true = {name: o for name, o in self.originals.recordings.items() if o.sound is not None}
        clips = {item.name: self._original(item, true[item.name]) for item in self.items if item.name in true}
        found: dict[str, list[JudgedClip]] = {TRUE: [], DECODED: [], OTHERS: self._other_speakers(clips)}
        for item in self.items:
            if item.name in clips:
                found[TRUE].append(replace(clips[item.name], sim_recording=None))  # 1.0 of any clip with itself
            decoded = self.originals.through_codec.get(item.name)
            if decoded is not None:
                codes_KT = decoded.sound.codes()
                facts = {"audio": decoded.audio, "ended": None, "seed": 0, "seconds": decoded.seconds}
                found[DECODED].append(self._clip(item, decoded.sound, codes_KT=codes_KT, **facts))
        return {name: clips for name, clips in found.items() if clips}

    def _original(self, item: TestItem, original: Original) -> JudgedClip:
        """Return a clip of the set that has a sound."""
        facts = original.seconds, original.frames
        return self._without_codes(item, original.sound, original.audio, None, 0, *facts)

    def _other_speakers(self, recordings: dict[str, JudgedClip]) -> list[JudgedClip]:
        """Return each recording (else reference) with its similarity to the reference of another speaker.

        Args:
            recordings: those that are judged already, by item.
        """
        found = []
        known = [item for item in self.items if item.speaker is not None and item.name in self.originals.references]
        for place, item in enumerate(known):
            others = [other for other in known[place + 1 :] + known[:place] if other.speaker != item.speaker]
            own = self.originals.recordings.get(item.name) or self.originals.references[item.name]
            if not others or own.sound is None:
                continue
            other = self.originals.references[others[0].name]
            clip = recordings.get(item.name) or self._original(item, own)
            sim = similarity(self.judgements, self.judges, own.sound, other.sound)
            nothing_else = {"errors": {}, "sim_recording": None, "mos": None, "seconds": 0.0, "alignment": None}
            measured = replace(clip.measured, silent_frames=None)
            found.append(replace(clip, sim_reference=sim, measured=measured, **nothing_else))
        return found

    def _without_codes(
        self,
        item: TestItem,
        sound: Sound,
        audio: str | None,
        ended: bool | None,
        seed: int,
        seconds: float,
        frames: int,
    ) -> JudgedClip:
        # Frames that all differ stand for the codes that are not known; only their number is read.
        counted = torch.arange(frames)[None]
        clip = self._clip(item, sound, codes_KT=counted, audio=audio, ended=ended, seed=seed, seconds=seconds)
        return replace(clip, has_codes=False)

    def _clip(
        self,
        item: TestItem,
        sound: Sound | None,
        *,
        codes_KT: torch.Tensor,
        audio: str | None,
        ended: bool | None,
        seed: int,
        seconds: float,
    ) -> JudgedClip:
        true, reference = self.originals.recordings.get(item.name), self.originals.references.get(item.name)
        samples, rate = sound.waveform() if sound is not None and sound.audio is not None else (None, None)
        measured = measure_clip(
            item.name,
            item.text,
            codes_KT,
            ended=bool(ended),
            true_frames=None if true is None else true.frames,
            seed=seed,
            samples=samples,
            sampling_rate=rate,
        )
        recognised = self._recognised(sound)
        errors = {n: text_errors(item.text, recognised, n) for n in self.normalisations if recognised is not None}
        aligned = None if recognised is None else word_alignment(item.text, recognised, ALIGNED)
        judges = self.judges
        return JudgedClip(
            item=item.name,
            speaker=item.speaker,
            dialect=item.dialect,
            kind=item.kind,
            seed=seed,
            audio=audio,
            ended=ended,
            seconds=seconds,
            true_seconds=None if true is None else true.seconds,
            measured=measured,
            has_codes=True,
            recognised=recognised,
            errors=errors,
            alignment=aligned,
            sim_reference=similarity(self.judgements, judges, sound, _sound(reference)),
            sim_recording=similarity(self.judgements, judges, sound, _sound(true)),
            mos=None if judges.mos is None else self.judgements.get(sound, judges.of_mos),
        )

    def _recognised(self, sound: Sound | None) -> str | None:
        """Return the recognised text. A clip without a frame says nothing."""
        if self.judges.recogniser is None:
            return None
        return "" if sound is None else self.judgements.get(sound, self.judges.of_text)


def _sound(original: Original | None) -> Sound | None:
    return None if original is None else original.sound
