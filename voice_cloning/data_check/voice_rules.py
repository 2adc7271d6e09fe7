"""Compares the voices of references and targets, and finds speakers under whose name several voices speak."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError
from voice_cloning.data_check.clip_measures import ClipMeasures
from voice_cloning.data_check.findings import Findings
from voice_cloning.data_check.same_clips import SameClips
from voice_cloning.data_check.sample_rules import Measures
from voice_cloning.data_check.samples import CheckedSample
from voice_cloning.data_check.voice_similarity import (
    find_threshold,
    nearest,
    pair_similarities,
    sure,
    voices_of,
)
from voice_cloning.speech.clip_voices import embed_clips, loaded_model
from voice_cloning.speech.speaker_embedding import (
    INSTALL_RESEMBLYZER,
    RESEMBLYZER,
    Calibration,
    SpeakerEmbedding,
    is_resemblyzer_installed,
    scaled_vectors,
)

AUTOMATIC, NO_MODEL = "auto", "none"
"""Values of ``--speaker_model``: Resemblyzer if it can be used; no comparison."""
MANY_SHARE, FEWEST_MANY = 0.25, 5
"""From this share and number of wrong references on, the pairing is wrong, not single files."""

Embeddings = Mapping[Clip, SpeakerEmbedding | None]
"""Clip -> its embedding; None if it has too little speech."""
Embed = Callable[[Sequence[Clip], str, int, bool], Embeddings]


@dataclass(frozen=True)
class VoiceCheck:
    """How voices are compared.

    Attributes:
        model: the name of the speaker model; None compares no voices.
        calibration: how similarities are read; None finds the threshold from the data.
        reason: why no voices are compared.
        is_on_gpu: the model runs on a GPU, in this process.
    """

    model: str | None
    calibration: Calibration | None = None
    reason: str = ""
    is_on_gpu: bool = False


def plan_voice_check(model: str, threshold: float | None) -> VoiceCheck:
    """Load the speaker model once, so that what is wrong with it is said before the work.

    Args:
        model: the value of ``--speaker_model``.
        threshold: similarity below which two clips are of two voices; None takes the model's, or finds it.

    Raises:
        InputError: if the model was named and cannot be used, or the threshold is not between -1 and 1.
    """
    if threshold is not None and not -1 < threshold < 1:
        raise InputError(f"--speaker_threshold {threshold:g}: must be between -1 and 1")
    if model == NO_MODEL:
        return VoiceCheck(None, reason=f"--speaker_model {NO_MODEL}")
    if model == AUTOMATIC and not is_resemblyzer_installed():
        return VoiceCheck(None, reason=f"{RESEMBLYZER} is not installed; {INSTALL_RESEMBLYZER}")
    try:
        loaded = loaded_model(RESEMBLYZER if model == AUTOMATIC else model)
    except InputError as error:
        if model == AUTOMATIC:
            return VoiceCheck(None, reason=str(error))
        raise
    calibration = loaded.calibration
    if threshold is not None:
        calibration = Calibration(threshold, calibration.half_seconds if calibration else 0.0)
    return VoiceCheck(loaded.name, calibration, is_on_gpu=loaded.device.type == "cuda")


def check_voices(
    samples: Sequence[CheckedSample],
    measures: Measures,
    same: SameClips,
    plan: VoiceCheck,
    findings: Findings,
    workers: int = 1,
    embed: Embed | None = None,
) -> dict[str, Any]:
    """Add the findings about voices to ``findings``.

    Args:
        embed: returns the embeddings of clips; None calls ``embed_clips``.

    Returns:
        The ``voices`` of the summary: how many references were compared, how many are of another voice, and a
        ``statement`` of one line.
    """
    if plan.model is None:
        return {"statement": f"not compared ({plan.reason})"}
    clips = {same.group(u.clip) for s in samples for u in s.clips if _has_sound(measures[u.clip])}
    ordered = [clip for clip in same.groups() if clip in clips]
    embeddings = (embed or embed_clips)(ordered, plan.model, workers, plan.is_on_gpu)
    return find_other_voices(samples, same, embeddings, plan, findings)


def _has_sound(measured: ClipMeasures) -> bool:
    """Return whether a clip has a waveform that can be read, if only to the end of its file.

    A clip that came as codes has none, unless it was decoded.
    """
    return measured.is_heard and not measured.problems.keys() - {"truncated"}


def find_other_voices(
    samples: Sequence[CheckedSample], same: SameClips, embeddings: Embeddings, plan: VoiceCheck, findings: Findings
) -> dict[str, Any]:
    """Add the findings from the embeddings of all clips; see :func:`check_voices`."""
    clips = [clip for clip, embedding in embeddings.items() if embedding is not None]
    calibration = plan.calibration or Calibration(0.0)
    vectors = scaled_vectors([embeddings[clip] for clip in clips], calibration.half_seconds)
    voices = _Voices(clips, vectors, samples, same)
    threshold, reason = calibration.threshold, ""
    if plan.calibration is None:
        threshold, reason = find_threshold(*voices.of_targets())
    if threshold is None:
        return {"model": plan.model, "statement": f"not compared ({reason}); give --speaker_threshold"}
    wrong, compared, references = _check_references(voices, samples, threshold, findings)
    several = _check_speakers(voices, samples, threshold, findings)
    statement = f"{plan.model} compared {compared} of {references} references with their targets: "
    statement += f"{wrong} of another voice ({100 * wrong / max(compared, 1):.1f} %)"
    if references > compared:
        statement += f"; the others have too little speech or no target to compare with ({references - compared})"
    if several:
        statement += f"; {several} speaker(s) with several voices"
    return {
        "model": plan.model,
        "threshold": round(threshold, 3),
        "references": references,
        "compared": compared,
        "of_another_voice": wrong,
        "speakers_with_several_voices": several,
        "statement": statement,
    }


class _Voices:
    """The vectors of all clips, by clip.

    Attributes:
        vectors: (N, D) of the clips.
    """

    def __init__(
        self, clips: Sequence[Clip], vectors: np.ndarray, samples: Sequence[CheckedSample], same: SameClips
    ) -> None:
        self.vectors = vectors
        self._clips = clips
        self._same = same
        self._number = {clip: number for number, clip in enumerate(clips)}
        self._use: dict[int, tuple[CheckedSample, bool]] = {}
        for is_target in (True, False):  # a target's name is that of its voice; a reference's is what is in question
            for sample in samples:
                for used in sample.targets if is_target else sample.references:
                    if (number := self.number(used.clip)) is not None:
                        self._use.setdefault(number, (sample, is_target))

    def number(self, clip: Clip) -> int | None:
        """Return the row of a clip in ``vectors``; None if it has no embedding."""
        return self._number.get(self._same.group(clip))

    def of_targets(self) -> tuple[np.ndarray, list[str | None]]:
        """Return the vectors of all targets and the names of their speakers."""
        targets = [number for number in range(len(self._clips)) if self._use.get(number, (None, False))[1]]
        return self.vectors[targets], [self._use[number][0].speaker for number in targets]

    def name_of_nearest(self, number: int, neighbours: np.ndarray, threshold: float) -> str:
        """Return in words whose voice a clip is surely of, or an empty string."""
        for other in neighbours:
            sample, is_target = self._use[int(other)]
            if is_target and self.vectors[number] @ self.vectors[other] >= sure(threshold):
                speaker = "" if sample.speaker is None else f" (speaker {sample.speaker!r})"
                return f"; it sounds like the target of {sample.sample_id}{speaker}"
        return ""


def _check_references(
    voices: _Voices, samples: Sequence[CheckedSample], threshold: float, findings: Findings
) -> tuple[int, int, int]:
    """Report references of another voice. Returns how many are, how many were compared, and how many there are."""
    references = [(sample, used) for sample in samples for used in sample.references]
    pairs, owners = [], []
    for owner, (sample, used) in enumerate(references):
        reference = voices.number(used.clip)
        for target in sample.targets:
            number = voices.number(target.clip)
            if reference is not None and number is not None and number != reference:
                pairs.append((reference, number))
                owners.append(owner)
    if not pairs:
        return 0, 0, len(references)
    counts = np.bincount(owners, minlength=len(references))
    sums = np.bincount(owners, pair_similarities(voices.vectors, pairs, threshold), minlength=len(references))
    means = sums / np.maximum(counts, 1)
    wrong = np.flatnonzero((counts > 0) & (means < threshold))
    numbers = np.array([voices.number(references[owner][1].clip) for owner in wrong], np.int64)
    many = len(wrong) >= max(FEWEST_MANY, MANY_SHARE * (counts > 0).sum())
    summary = f"{len(wrong)} of {(counts > 0).sum()} references are of another voice than their targets"
    for owner, number, near in zip(wrong, numbers, nearest(voices.vectors, numbers, 3), strict=True):
        sample, used = references[owner]
        detail = f"{used.where}: its similarity to the target's voice is {means[owner]:.2f}"
        detail += f"; that of one voice is {threshold:.2f} or more" + voices.name_of_nearest(number, near, threshold)
        value = float(means[owner]), threshold
        findings.add("reference_of_another_voice", sample.sample_id, detail, value)
        if many:
            findings.add("references_of_other_voices", sample.sample_id, f"{summary}; {detail}")
    return len(wrong), int((counts > 0).sum()), len(references)


def _check_speakers(voices: _Voices, samples: Sequence[CheckedSample], threshold: float, findings: Findings) -> int:
    """Report the targets of each speaker that are not of the voice with most targets. Returns how many have such."""
    targets: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        for used in sample.targets:
            if sample.speaker is not None and (number := voices.number(used.clip)) is not None:
                targets[sample.speaker][number].append(sample.sample_id)
    several = 0
    for speaker, clips in targets.items():
        voice = voices_of(voices.vectors[list(clips)], threshold)
        counts = np.bincount(voice)
        several += len(counts) > 1
        for own, sample_ids in zip(voice, clips.values(), strict=True):
            for sample_id in sample_ids if own else ():
                detail = f"speaker {speaker!r} has targets of {len(counts)} voices; this one is of voice {own + 1}, "
                detail += f"which has {counts[own]} of {len(clips)}; voice 1 has {counts[0]}"
                findings.add("speaker_with_several_voices", sample_id, detail)
    return several
