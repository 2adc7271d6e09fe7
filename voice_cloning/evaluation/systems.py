"""What an evaluation compares: the base model, adapters on it, merged models, and folders of finished WAVs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boson_multimodal.checkpoints import is_hub_id
from boson_multimodal.circumstances import home_path
from boson_multimodal.constants import AUDIO_TOKENIZER_REVISION, MODEL_REVISION
from boson_multimodal.errors import Problems, raise_if_any
from boson_multimodal.prompt_template import PromptForm
from voice_cloning.adapters.export import check_scale_is_used
from voice_cloning.speech.adapter_folders import BASE, adapter_folders, short_names
from voice_cloning.speech.adapter_run import (
    normalisation_of_adapter,
    refuse_unused_fields,
    style_of_adapter,
    with_fields,
)
from voice_cloning.speech.speech import SpeechSettings
from voice_cloning.speech.voice_cloner import VoiceCloner

ADAPTER, MERGED, WAVS = "adapter", "merged", "wavs"
"""The kinds of systems beside ``BASE``."""
STYLE_OF_WAVS = "as_written"
"""The prompt style in which a set is read if nothing is spoken: it keeps the turns of any record."""


@dataclass(frozen=True)
class System:
    """One system of an evaluation.

    Attributes:
        name: unique, short, and the name of its folder of clips.
        kind: one of ``base``, ``adapter``, ``merged``, ``wavs``.
        path: the folder (or hub id of a model).
        prompt_style, text_normalisation: of its prompts.
    """

    name: str
    kind: str
    path: str
    prompt_style: PromptForm
    text_normalisation: str

    @property
    def speaks(self) -> bool:
        """Whether its clips are made by the evaluation."""
        return self.kind != WAVS


@dataclass(frozen=True, kw_only=True)
class SystemSettings:
    """Which systems are compared, and how they speak.

    Attributes:
        model_path, model_revision, audio_tokenizer_path, audio_tokenizer_revision, codes, torch_dtype, quantise,
            device, adapter_scale: as in :class:`VoiceCloner`.
        base: whether the base model itself is a system.
        adapters, merged, wavs: folders; ``merged`` may be hub ids. One of ``adapters`` may be a folder of adapters
            (:func:`adapter_folders`).
        namesakes: folders that are no systems here, but count when names are made: a system then has one name in two
            evaluations.
        prompt_style, text_normalisation: of all systems; None takes those of each adapter's training. The style may be
            a template.
        prompt_fields: (field, value) for prompt templates, where a sentence names none.
        speech: the settings of generation. Its seed is not used, and nothing is repeated.
    """

    model_path: str
    audio_tokenizer_path: str
    model_revision: str = MODEL_REVISION
    audio_tokenizer_revision: str = AUDIO_TOKENIZER_REVISION
    codes: tuple[str, ...] = ()
    base: bool = True
    adapters: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    wavs: tuple[str, ...] = ()
    namesakes: tuple[str, ...] = ()
    adapter_scale: float = 1.0
    prompt_style: PromptForm | None = None
    prompt_fields: tuple[tuple[str, str], ...] = ()
    text_normalisation: str | None = None
    torch_dtype: str = "auto"
    quantise: str | None = None
    device: str | None = None
    speech: SpeechSettings = field(default_factory=lambda: SpeechSettings(retries=0))


def find_systems(settings: SystemSettings) -> list[System]:
    """Return the systems in the order base, adapters, merged models, WAVs. No model's file but ``run.json`` is read.

    Raises:
        InputError: if there is no system; listing folders that are given twice, or are missing; or if a ``run.json`` is
            wrong.
    """
    problems = Problems()
    found = find_right_systems(settings, problems)
    problems.raise_all()
    return found


def find_right_systems(settings: SystemSettings, problems: Problems) -> list[System]:
    """Return those systems of :func:`find_systems` with which nothing is wrong, and add what is wrong with others."""
    adapters = problems.tried(lambda: adapter_folders(settings.adapters)) or ()
    given = [(ADAPTER, str(path)) for path in adapters]
    given += [(MERGED, path) for path in settings.merged]
    given += [(WAVS, path) for path in settings.wavs]
    if not given and not settings.base and not settings.adapters:
        problems.add("there is no system to evaluate: give --adapter, --merged or --wavs, or leave --no_base out")
    problems.tried(lambda: check_scale_is_used(settings.adapter_scale, bool(settings.adapters)))
    given = [(kind, str(home_path(path, f"--{kind}"))) for kind, path in given]
    wrong = _wrong_paths(given, settings)
    problems.tried(lambda: raise_if_any("systems that cannot be evaluated", [p for ps in wrong.values() for p in ps]))
    namesakes = [str(home_path(path, "--wavs")) for path in settings.namesakes]
    names = short_names([path for _, path in given] + namesakes)[: len(given)]
    found = [(BASE, BASE, settings.model_path)] if settings.base else []
    found += [(name, *one) for name, one in zip(names, given, strict=True) if one not in wrong]
    systems = [problems.tried(lambda one=one: _system(*one, settings)) for one in found]
    right = [system for system in systems if system is not None]
    forms = [system.prompt_style for system in right]
    problems.tried(lambda: refuse_unused_fields(forms, dict(settings.prompt_fields)))
    return right


def _system(name: str, kind: str, path: str, settings: SystemSettings) -> System:
    if kind == WAVS:
        style = settings.prompt_style if isinstance(settings.prompt_style, str) else STYLE_OF_WAVS
        return System(name, kind, path, style, settings.text_normalisation or "none")
    folder = home_path(path, "--model_path")
    style = with_fields(settings.prompt_style or style_of_adapter(folder), dict(settings.prompt_fields))
    return System(name, kind, path, style, settings.text_normalisation or normalisation_of_adapter(folder))


def _wrong_paths(given: Sequence[tuple[str, str]], settings: SystemSettings) -> dict[tuple[str, str], list[str]]:
    """Return what is wrong with each (kind, path) that is wrong."""
    wrong: dict[tuple[str, str], list[str]] = {}
    count = Counter((kind, str(Path(path).resolve())) for kind, path in given)
    own = str(home_path(settings.model_path, "--model_path").resolve())
    for (kind, path), times in count.items():
        if times > 1:
            problem = f"--{kind} {path}: is given {times} times; give each folder once"
            wrong.setdefault((kind, path), []).append(problem)
    for kind, path in dict.fromkeys(given):
        if not Path(path).is_dir() and not (kind == MERGED and is_hub_id(path)):
            wrong.setdefault((kind, path), []).append(f"--{kind} {path}: no such folder")
    if settings.base and (MERGED, own) in count:
        problem = f"--merged {own}: is --model_path too, which is evaluated as the base; give --no_base or leave it"
        wrong.setdefault((MERGED, own), []).append(problem)
    return wrong


def mismatches(systems: Sequence[System]) -> list[str]:
    """Return a warning for each setting of prompts in which the speaking systems differ."""
    warnings = []
    for field_name in ("prompt_style", "text_normalisation"):
        of_value: dict[str, list[str]] = {}
        for system in systems:
            if system.speaks:
                of_value.setdefault(str(getattr(system, field_name)), []).append(system.name)
        if len(of_value) > 1:
            remedy = "--prompt_style or --prompt_template" if field_name == "prompt_style" else f"--{field_name}"
            told = "; ".join(f"{value}: {', '.join(names)}" for value, names in of_value.items())
            warnings.append(f"the systems differ in {field_name} ({told}); give {remedy} to ask all alike")
    return warnings


def open_cloner(system: System, settings: SystemSettings, turns_are_given: bool) -> VoiceCloner:
    """Check a speaking system, and return its cloner. No weight of a model is loaded.

    Args:
        turns_are_given: as in :class:`VoiceCloner`.

    Raises:
        InputError: if a part is missing, or if the parts do not fit each other.
    """
    is_adapter = system.kind == ADAPTER
    return VoiceCloner(
        model_path=settings.model_path if is_adapter else system.path,
        model_revision=None if system.kind == MERGED else settings.model_revision,
        audio_tokenizer_path=settings.audio_tokenizer_path,
        audio_tokenizer_revision=settings.audio_tokenizer_revision,
        adapter=system.path if is_adapter else None,
        adapter_scale=settings.adapter_scale if is_adapter else 1.0,
        codes=settings.codes,
        prompt_style=system.prompt_style,
        text_normalisation=system.text_normalisation,
        torch_dtype=settings.torch_dtype,
        quantise=settings.quantise,
        device=settings.device,
        settings=settings.speech,
        turns_are_given=turns_are_given,
    )
