"""Evaluates systems on a test set: speaks it, judges what was spoken, and writes report.json and report.html.

    report = evaluate(settings, recogniser=my_recogniser)

A recogniser is any object with a ``name`` and ``transcribe(clips) -> texts``; a clip has a waveform, codes, or both.

    OUTPUT_DIR/evaluation.json    the set and the settings to which the folder belongs
               report.json        written when all is done
               report.html        the same as a page
               audio/SYSTEM/      clips; audio/reference/, audio/recording/, audio/recording_codec/: clips of the set
               codes/SYSTEM/      codes of clips and a record of each
               judgements/        what recognisers and other models said of each clip
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.device_memory import release_cached_memory
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.memory_remedies import Remedy, naming_lack_of_memory
from boson_multimodal.process_group import Ranks
from boson_multimodal.whole_files import write_whole
from voice_cloning.evaluation import report as reporting
from voice_cloning.evaluation.finished_wavs import FinishedWav, missing_wavs, read_wavs
from voice_cloning.evaluation.identity import bind_folder, file_identity
from voice_cloning.evaluation.intervals import CONFIDENCE
from voice_cloning.evaluation.judged_clips import OTHERS, JudgedSet, spoken_sound
from voice_cloning.evaluation.judgement import Judgements, Judges, Sound, judge_all
from voice_cloning.evaluation.originals import Originals, copy_originals, items_with_recordings, through_codec
from voice_cloning.evaluation.report import JudgedClip
from voice_cloning.evaluation.report_form import FORMAT, REPORT_FILE
from voice_cloning.evaluation.report_page import write_page
from voice_cloning.evaluation.run_selection import (
    check_selection,
    checkpoints_among,
    select_checkpoint,
    write_selection,
)
from voice_cloning.evaluation.selection import RETENTION_BOUND
from voice_cloning.evaluation.speaking import ClipToSpeak, HeldModel, speak_set
from voice_cloning.evaluation.spoken_files import ClipRecord
from voice_cloning.evaluation.systems import (
    ADAPTER,
    BASE,
    System,
    SystemSettings,
    find_systems,
    mismatches,
    open_cloners,
    print_warnings,
    warn_of_other_base,
)
from voice_cloning.evaluation.test_sets import TestItem, TestSet, read_test_set
from voice_cloning.evaluation.word_errors import NORMALISATIONS
from voice_cloning.speech.requests import SpeechRequest, check_references
from voice_cloning.speech.voice_cloner import VoiceCloner

DURING_SPEECH = "while speech was generated; the clips that are written are complete"

SpokenClips = dict[str, dict[tuple[str, int], ClipRecord]]
"""The record of each clip by system, item and seed."""


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
            "prompt_style": self.systems.prompt_style,
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


def check_evaluation(settings: EvaluationSettings, needs_sound: bool = False) -> CheckedEvaluation:
    """Check all input. No weight of a model is loaded.

    Args:
        needs_sound: whether a judge hears waveforms.

    Raises:
        InputError: if something is wrong, with all that is wrong of one kind.
    """
    systems = find_systems(settings.systems)
    sets: dict[tuple[str, str], TestSet] = {}
    for style, how in dict.fromkeys((system.prompt_style, system.text_normalisation) for system in systems):
        sets[style, how] = read_test_set(settings.test_set, style, how, settings.references)
    first_style = systems[0].prompt_style
    scored = sets.get((first_style, "none")) or read_test_set(
        settings.test_set, first_style, "none", settings.references
    )
    names = [item.name for item in scored.items]
    missing = [p for s in systems if not s.speaks for p in missing_wavs(Path(s.path), names)]
    raise_if_any("folders of WAVs that lack clips", missing)
    cloners = open_cloners(systems, settings.systems)
    requests = {
        system.name: [item.request for item in sets[system.prompt_style, system.text_normalisation].items]
        for system in systems
        if system.speaks
    }
    _check_references(cloners, requests, scored.items)
    first = next(iter(cloners.values()), None)
    if first is not None and first.speaks_codes_only and needs_sound:
        raise InputError(
            f"--audio_tokenizer_path {settings.systems.audio_tokenizer_path}: there is no codec, so speech stays "
            "codes, but --asr, --speaker_model and --mos need waveforms; give the codec that made the --codes, or "
            "leave them out"
        )
    recordings, warnings = items_with_recordings(scored.items, None if first is None else first.codes_files)
    if settings.select is not None:
        warnings += check_selection(settings.select, _adapters(systems))
    warnings += [*scored.notes, *mismatches(systems)]
    warnings += [warning for cloner in cloners.values() for warning in warn_of_other_base(cloner)]
    if first is not None and first.speaks_codes_only:
        warnings.append("there is no codec at --audio_tokenizer_path: speech stays codes, and nothing can be heard")
    return CheckedEvaluation(systems, cloners, scored, requests, recordings, warnings)


def _check_references(
    cloners: dict[str, VoiceCloner], requests: dict[str, list[SpeechRequest]], items: Sequence[TestItem]
) -> None:
    """Read every reference once, and check that all prompts fit into the positions of their models."""
    first = next(iter(cloners.values()), None)
    if first is None:
        _, problems = check_references([item.request for item in items])
        raise_if_any("references that cannot be used", problems)
        return
    frames, problems = first.check_references([request for asked in requests.values() for request in asked])
    raise_if_any("references that cannot be used", problems)
    for name, cloner in cloners.items():
        cloner.check_lengths(requests[name], frames)


def evaluate(
    settings: EvaluationSettings,
    *,
    checked: CheckedEvaluation | None = None,
    recogniser: Any = None,
    speaker_model: Any = None,
    mos: Any = None,
    judge_versions: Mapping[str, str] | None = None,
    ranks: Ranks | None = None,
    retention: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate systems, write report.json and report.html, and return the content of the first.

    Args:
        settings: see :class:`EvaluationSettings`.
        checked: the result of :func:`check_evaluation`, if the caller has it.
        recogniser: any object with ``name`` and ``transcribe(clips) -> list of texts`` (``recognisers.py``).
        speaker_model: any object with ``name`` and ``embed(samples, rate) -> (D,)``.
        mos: any object with ``name`` and ``score(samples, rate) -> float``.
        judge_versions: what tells judges of one name apart (``Judges.versions``).
        ranks: the processes, which share the work.
        retention: the part of the report about the retention set (``retention.py``).

    Raises:
        InputError: if an input is wrong. No weight of a speaking model has been loaded then.
    """
    ranks, folder = ranks or Ranks(), settings.output_dir
    judges = Judges(recogniser, speaker_model, mos, judge_versions or {})
    checked = checked or check_evaluation(settings, needs_sound=bool(speaker_model or mos))
    identity = settings.identity() | {"codes": checked.codes and checked.codes.codec}
    with ranks.failing_together():
        if ranks.is_main:
            bind_folder(folder, identity)
    if ranks.is_main:
        print_warnings(checked.warnings)
    copied = copy_originals(checked.items, checked.recordings, folder, checked.codes, checked.frames_per_second, ranks)
    wavs = _read_wavs(checked, folder, ranks)
    spoken = _speak(settings, checked, ranks)
    decoded = {}
    if checked.first_cloner is not None:
        decoded = through_codec(checked.items, checked.recordings, folder, checked.first_cloner, ranks)
    originals, judgements = Originals(*copied, decoded), Judgements(folder, ranks)
    judge_all(
        judges,
        judgements,
        *_sounds(folder, originals, spoken, wavs),
    )
    judged = JudgedSet(folder, checked.items, originals, judges, judgements, list(NORMALISATIONS))
    content = None
    with ranks.failing_together():
        if ranks.is_main:
            content = _report(settings, checked, judged, spoken, wavs, retention)
            _write_report(folder, content)
            if settings.select is not None:
                write_selection(settings.select, _checkpoints(settings, checked), content)
    return ranks.broadcast_object(content)


def _speak(settings: EvaluationSettings, checked: CheckedEvaluation, ranks: Ranks) -> SpokenClips:
    """Speak the set with every speaking system. The weights of a base are loaded once."""
    spoken: SpokenClips = {}
    model = HeldModel()
    for name, cloner in checked.cloners.items():
        if cloner is not checked.first_cloner:
            cloner.share_codec_of(checked.first_cloner)
        clips = [ClipToSpeak(request, seed) for seed in settings.seeds for request in checked.requests[name]]
        half = Remedy("take fewer pieces at a time", ("--batch_size", str(settings.batch_size // 2)))
        smaller = [half] if settings.batch_size > 1 else []
        with naming_lack_of_memory(cloner.device, lambda: DURING_SPEECH, lambda found=smaller: found):
            spoken[name] = speak_set(
                cloner, model, clips, settings.output_dir, name, batch_size=settings.batch_size, ranks=ranks
            )
    model.free()
    if checked.first_cloner is not None:
        release_cached_memory(checked.first_cloner.device)
    return spoken


def _read_wavs(checked: CheckedEvaluation, folder: Path, ranks: Ranks) -> dict[str, list[FinishedWav]]:
    """Return the clips of each folder of WAVs, on all ranks. The main process reads and copies them."""
    names = [item.name for item in checked.items]
    found: dict[str, list[FinishedWav]] = {}
    with ranks.failing_together():
        for system in checked.systems if ranks.is_main else ():
            if not system.speaks:
                found[system.name] = read_wavs(Path(system.path), names, folder, system.name, checked.frames_per_second)
    return ranks.broadcast_object(found)


def _sounds(
    folder: Path, originals: Originals, spoken: SpokenClips, wavs: dict[str, list[FinishedWav]]
) -> tuple[list[Sound], list[Sound]]:
    """Return the clips to judge: those with a text, and the references."""
    found = [
        spoken_sound(folder, system, f"{item}.{seed}", record)
        for system, records in spoken.items()
        for (item, seed), record in records.items()
    ]
    found += [wav.sound for of_system in wavs.values() for wav in of_system]
    found += [o.sound for of_kind in (originals.recordings, originals.through_codec) for o in of_kind.values()]
    references = [original.sound for original in originals.references.values()]
    return [sound for sound in found if sound is not None], [sound for sound in references if sound is not None]


def _report(
    settings: EvaluationSettings,
    checked: CheckedEvaluation,
    judged: JudgedSet,
    spoken: SpokenClips,
    wavs: dict[str, list[FinishedWav]],
    retention: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of report.json."""
    clips: dict[str, list[JudgedClip]] = {}
    for system in checked.systems:
        if system.speaks:
            clips[system.name] = [
                judged.spoken(system.name, item, seed, spoken[system.name][item.name, seed])
                for item in checked.items
                for seed in settings.seeds
            ]
        else:
            pairs = zip(checked.items, wavs[system.name], strict=True)
            clips[system.name] = [judged.finished(item, wav) for item, wav in pairs]
    names = [system.name for system in checked.systems]
    judges, speech = judged.judges, settings.systems.speech
    speakers = {item.speaker for item in checked.items if item.speaker is not None}
    scales = judged.scales()
    systems = [_system_record(system, clips, settings) for system in checked.systems]
    figures = {system["name"]: system["figures"] for system in systems}
    checkpoints, bound = _checkpoints(settings, checked), settings.retention_bound
    return {
        "format": FORMAT,
        "title": settings.title or f"{settings.test_set.name}: {', '.join(names)}",
        "set": {
            "name": settings.test_set.name,
            "kind": checked.scored.kind,
            "sentences": len(checked.items),
            "speakers": len(speakers),
        },
        "recogniser": judges.recogniser and judges.recogniser.name,
        "normalisations": list(judged.normalisations) if judges.recogniser else [],
        "speaker_model": judges.speaker_model and judges.speaker_model.name,
        "mos": judges.mos and judges.mos.name,
        "seeds": list(settings.seeds),
        "sampling": asdict(speech.sampling) | {"slowest_letters_per_second": speech.slowest_letters_per_second},
        "confidence": CONFIDENCE,
        "lengths": reporting.LENGTHS,
        "systems": systems,
        "retention": retention,
        "selection": checkpoints and select_checkpoint(checkpoints, clips, figures, retention, bound),
        "scales": reporting.scales(scales),
        "items": _item_records(checked.items, judged.originals, clips, scales),
        "warnings": checked.warnings,
    }


def _checkpoints(settings: EvaluationSettings, checked: CheckedEvaluation) -> dict[str, Path] | None:
    """Return the folders of the checkpoints to choose from, by name of the system; None if nothing is chosen."""
    return None if settings.select is None else checkpoints_among(_adapters(checked.systems), settings.select)


def _adapters(systems: Sequence[System]) -> dict[str, Path]:
    """Return the folder of each adapter by name of the system."""
    return {system.name: Path(system.path) for system in systems if system.kind == ADAPTER}


def _system_record(system: System, clips: dict[str, list[JudgedClip]], settings: EvaluationSettings) -> dict[str, Any]:
    own = clips[system.name]
    compared = BASE in clips and system.name != BASE
    prompts = {"prompt_style": system.prompt_style, "text_normalisation": system.text_normalisation}
    return {
        "name": system.name,
        "kind": system.kind,
        **(prompts if system.speaks else {}),
        **({"adapter_scale": settings.systems.adapter_scale} if system.kind == ADAPTER else {}),
        "figures": reporting.figures(own),
        "differences": reporting.differences(clips[BASE], own) if compared else {},
        "groups": reporting.groups(own),
        "cost": reporting.cost(own),
    }


def _item_records(
    items: Sequence[TestItem],
    originals: Originals,
    clips: dict[str, list[JudgedClip]],
    scales: dict[str, list[JudgedClip]],
) -> list[dict[str, Any]]:
    """Return the sentences with the clips of each system and of each scale."""
    spoken: dict[str, dict[str, list[dict[str, Any]]]] = {item.name: {name: [] for name in clips} for item in items}
    for name, own in clips.items():
        for clip in own:
            spoken[clip.item][name].append(clip.record())
    of_scales: dict[str, dict[str, dict[str, Any]]] = {item.name: {} for item in items}
    for name, own in scales.items():
        for clip in own if name != OTHERS else ():
            of_scales[clip.item][name] = clip.record()
    records = []
    for item in items:
        reference, recording = originals.references.get(item.name), originals.recordings.get(item.name)
        facts = {"speaker": item.speaker, "dialect": item.dialect, "kind": item.kind}
        originals_of = {"reference": reference and reference.audio, "recording": recording and recording.audio}
        given = {"id": item.name, "text": item.text, **facts, **originals_of}
        records.append({**given, "clips": spoken[item.name], "scales": of_scales[item.name]})
    return records


def _write_report(folder: Path, content: dict[str, Any]) -> None:
    path = folder / REPORT_FILE
    try:
        write_whole(path, (json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())
        write_page(folder)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
