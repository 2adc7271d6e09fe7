"""The settings of an evaluation, and the check of all its input before any weight is loaded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.errors import Problems, raise_if_any
from boson_multimodal.prompt_template import PromptForm
from voice_cloning.evaluation.finished_wavs import missing_wavs
from voice_cloning.evaluation.identity import check_folder, file_identity
from voice_cloning.evaluation.originals import items_with_recordings
from voice_cloning.evaluation.run_selection import check_selection
from voice_cloning.evaluation.selection import RETENTION_BOUND
from voice_cloning.evaluation.systems import (
    ADAPTER,
    STYLE_OF_WAVS,
    System,
    SystemSettings,
    find_right_systems,
    mismatches,
    open_cloner,
)
from voice_cloning.evaluation.test_sets import TestItem, TestSet, read_test_set
from voice_cloning.speech.requests import SpeechRequest, check_references
from voice_cloning.speech.voice_cloner import VoiceCloner
from voice_cloning.speech.voices import warn_of_other_base

NOT_NORMALISED = "none"
"""The text normalisation of a set as it is scored."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The settings of one evaluation.

    Attributes:
        systems: what is compared, and how it speaks.
        test_set: the file of the set (``test_sets.py``).
        output_dir: a new folder, or that of an earlier call with the same set and the same settings of speech.
        references: the manifest of voices for a set that has none.
        seeds: each sentence is spoken once for each seed.
        batch_size: pieces that are spoken at once.
        title: the title of the report; None makes one.
        select: the folder of a training run, whose checkpoints are among the adapters: the best one is chosen.
        retention_bound: the rise of the error rate on the retention set that a chosen checkpoint may have.
    """

    systems: SystemSettings
    test_set: Path
    output_dir: Path
    references: Path | None = None
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 8
    title: str | None = None
    select: Path | None = None
    retention_bound: float = RETENTION_BOUND

    def __post_init__(self) -> None:
        problems = [f"seed {seed}: must be at least 0" for seed in self.seeds if seed < 0]
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            problems.append(f"seeds are {list(self.seeds)}; give at least one, and each once")
        if not 0.0 <= self.retention_bound <= 1.0:
            problems.append(f"retention_bound is {self.retention_bound}; it must be a share of words, from 0 to 1")
        if self.batch_size < 1:
            problems.append(f"batch_size is {self.batch_size}; it must be at least 1")
        raise_if_any("wrong settings", problems)

    def identity(self) -> dict[str, Any]:
        """Return what must not change in a folder of an evaluation."""
        speech = self.systems.speech
        return {
            "test_set": file_identity(self.test_set),
            "references": file_identity(self.references),
            "prompt_style": self.systems.prompt_style and str(self.systems.prompt_style),
            **({"prompt_fields": dict(self.systems.prompt_fields)} if self.systems.prompt_fields else {}),
            "text_normalisation": self.systems.text_normalisation,
            "torch_dtype": self.systems.torch_dtype,
            "sampling": asdict(speech.sampling),
            "slowest_letters_per_second": speech.slowest_letters_per_second,
        }


@dataclass(frozen=True)
class CheckedEvaluation:
    """An evaluation whose input is right. No weight is loaded.

    Attributes:
        systems: in the order of the report.
        cloners: of the speaking systems by name.
        scored: the set as it is scored, without text normalisation.
        requests: what each speaking system is asked, in the order of the set.
        recordings: names of the items' recordings that exist.
        warnings: for the report.
    """

    systems: list[System]
    cloners: dict[str, VoiceCloner]
    scored: TestSet
    requests: dict[str, list[SpeechRequest]]
    recordings: dict[str, Any]
    warnings: list[str]

    @property
    def adapters(self) -> dict[str, Path]:
        """The folder of each adapter by name of the system."""
        return adapters_among(self.systems)

    @property
    def items(self) -> Sequence[TestItem]:
        """The sentences."""
        return self.scored.items

    @property
    def first_cloner(self) -> VoiceCloner | None:
        """The cloner whose codec all others share; None if nothing is spoken."""
        return next(iter(self.cloners.values()), None)

    @property
    def codes(self) -> CodesFiles | None:
        """The files of codes, if there are any."""
        return self.first_cloner.codes_files if self.first_cloner else None

    @property
    def frames_per_second(self) -> float:
        """Of the codec."""
        return self.first_cloner.frames_per_second if self.first_cloner else FRAMES_PER_SECOND

    def identity(self, settings: EvaluationSettings) -> dict[str, Any]:
        """Return what must not change in the folder of the evaluation."""
        return settings.identity() | {"codes": self.codes and self.codes.codec}


def adapters_among(systems: Sequence[System]) -> dict[str, Path]:
    """Return the folder of each adapter by name of the system."""
    return {system.name: Path(system.path) for system in systems if system.kind == ADAPTER}


def check_evaluation(settings: EvaluationSettings, needs_sound: bool = False) -> CheckedEvaluation:
    """Check all input. No weight of a model is loaded.

    Args:
        needs_sound: whether a judge hears waveforms.

    Raises:
        InputError: with everything that is wrong.
    """
    checked, problems = look_at_evaluation(settings, needs_sound)
    problems.raise_all()
    return checked


def look_at_evaluation(
    settings: EvaluationSettings, needs_sound: bool = False
) -> tuple[CheckedEvaluation | None, Problems]:
    """Check all input as :func:`check_evaluation`. Return what was found, or None, and everything that is wrong.

    What depends on something wrong is not checked.
    """
    problems = Problems()
    systems = find_right_systems(settings.systems, problems)
    sets = _read_sets(settings, systems, problems)
    requests = {
        system.name: [item.request for item in found.items]
        for system in systems
        if system.speaks and (found := sets.get((system.prompt_style, system.text_normalisation)))
    }
    cloners = {}
    for system in systems:
        if system.speaks:
            are_records = all(request.is_record for request in requests.get(system.name, ()))
            cloner = problems.tried(lambda one=system, given=are_records: open_cloner(one, settings.systems, given))
            cloners |= {} if cloner is None else {system.name: cloner}
    scored = sets.get((_first_style(systems), NOT_NORMALISED))
    if scored is not None:
        names = [item.name for item in scored.items]
        missing = [p for s in systems if not s.speaks for p in missing_wavs(Path(s.path), names)]
        problems.tried(lambda: raise_if_any("folders of WAVs that lack clips", missing))
        _check_references(cloners, requests, scored.items, problems)
    first = next(iter(cloners.values()), None)
    if first is not None and first.speaks_codes_only and needs_sound:
        problems.add(
            f"--audio_tokenizer_path {settings.systems.audio_tokenizer_path}: there is no codec, so speech stays "
            "codes, but --asr, --speaker_model and --mos need waveforms; give the codec that made the --codes, or "
            "leave them out"
        )
    warnings = []
    if settings.select is not None and not problems.messages:
        warnings += problems.tried(lambda: check_selection(settings.select, adapters_among(systems))) or []
    if problems.messages:
        return None, problems
    recordings, of_recordings = items_with_recordings(scored.items, None if first is None else first.codes_files)
    warnings = [*of_recordings, *warnings, *scored.notes, *mismatches(systems)]
    warnings += [warning for cloner in cloners.values() for warning in warn_of_other_base(cloner)]
    if first is not None and first.speaks_codes_only:
        warnings.append("there is no codec at --audio_tokenizer_path: speech stays codes, and nothing can be heard")
    checked = CheckedEvaluation(systems, cloners, scored, requests, recordings, warnings)
    problems.tried(lambda: check_folder(settings.output_dir, checked.identity(settings)))
    return checked, problems


def _first_style(systems: Sequence[System]) -> PromptForm:
    """Return the prompt style in which a set is scored."""
    return systems[0].prompt_style if systems else STYLE_OF_WAVS


def _read_sets(
    settings: EvaluationSettings, systems: Sequence[System], problems: Problems
) -> dict[tuple[PromptForm, str], TestSet]:
    """Return the set by prompt style and text normalisation, for each system and as it is scored."""
    forms = [(system.prompt_style, system.text_normalisation) for system in systems]
    sets = {}
    for style, how in dict.fromkeys([*forms, (_first_style(systems), NOT_NORMALISED)]):
        found = problems.tried(
            lambda style=style, how=how: read_test_set(settings.test_set, style, how, settings.references)
        )
        if found is not None:
            sets[style, how] = found
    return sets


def _check_references(
    cloners: dict[str, VoiceCloner],
    requests: dict[str, list[SpeechRequest]],
    items: Sequence[TestItem],
    problems: Problems,
) -> None:
    """Read every reference once, and check that all prompts fit into the positions of their models."""
    first = next(iter(cloners.values()), None)
    if first is None:
        frames, wrong = check_references([item.request for item in items])
    else:
        frames, wrong = first.check_references([request for asked in requests.values() for request in asked])
    problems.tried(lambda: raise_if_any("references that cannot be used", wrong))
    if wrong:
        return
    for name, cloner in cloners.items():
        if name in requests:
            problems.tried(lambda cloner=cloner, name=name: cloner.check_lengths(requests[name], frames))
