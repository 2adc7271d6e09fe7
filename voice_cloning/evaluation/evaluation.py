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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boson_multimodal.device_memory import release_cached_memory
from boson_multimodal.errors import InputError
from boson_multimodal.memory_remedies import Remedy, naming_lack_of_memory
from boson_multimodal.process_group import Ranks
from boson_multimodal.whole_files import write_whole
from voice_cloning.evaluation import report as reporting
from voice_cloning.evaluation.evaluation_input import CheckedEvaluation, EvaluationSettings, check_evaluation
from voice_cloning.evaluation.finished_wavs import FinishedWav, read_wavs
from voice_cloning.evaluation.identity import bind_folder
from voice_cloning.evaluation.intervals import CONFIDENCE
from voice_cloning.evaluation.judged_clips import OTHERS, JudgedSet, spoken_sound
from voice_cloning.evaluation.judgement import Judgements, Judges, Sound, judge_all
from voice_cloning.evaluation.originals import Originals, copy_originals, through_codec
from voice_cloning.evaluation.report import JudgedClip
from voice_cloning.evaluation.report_form import FORMAT, REPORT_FILE
from voice_cloning.evaluation.report_page import write_page
from voice_cloning.evaluation.run_selection import (
    checkpoints_among,
    select_checkpoint,
    write_selection,
)
from voice_cloning.evaluation.speaking import ClipToSpeak, speak_set
from voice_cloning.evaluation.spoken_files import ClipRecord
from voice_cloning.evaluation.systems import ADAPTER, System
from voice_cloning.evaluation.test_sets import TestItem
from voice_cloning.evaluation.word_errors import NORMALISATIONS
from voice_cloning.speech.adapter_folders import BASE
from voice_cloning.speech.speaking_model import HeldModel
from voice_cloning.speech.voices import print_warnings

DURING_SPEECH = "while speech was generated; the clips that are written are complete"

SpokenClips = dict[str, dict[tuple[str, int], ClipRecord]]
"""The record of each clip by system, item and seed."""


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
    model: HeldModel | None = None,
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
        model: holds the base's weights for several evaluations; whoever made it frees it. None loads them for this one.

    Raises:
        InputError: if an input is wrong. No weight of a speaking model has been loaded then.
    """
    ranks, folder = ranks or Ranks(), settings.output_dir
    judges = Judges(recogniser, speaker_model, mos, judge_versions or {})
    checked = checked or check_evaluation(settings, needs_sound=bool(speaker_model or mos))
    with ranks.failing_together():
        if ranks.is_main:
            bind_folder(folder, checked.identity(settings))
    if ranks.is_main:
        print_warnings(checked.warnings)
    copied = copy_originals(checked.items, checked.recordings, folder, checked.codes, checked.frames_per_second, ranks)
    wavs = _read_wavs(checked, folder, ranks)
    spoken = _speak(settings, checked, ranks, model)
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


def _speak(
    settings: EvaluationSettings, checked: CheckedEvaluation, ranks: Ranks, held: HeldModel | None
) -> SpokenClips:
    """Speak the set with every speaking system. The weights of a base are loaded once."""
    spoken: SpokenClips = {}
    model = HeldModel(most_bytes=0) if held is None else held  # the memory of a system is that of one adapter
    for name, cloner in checked.cloners.items():
        if cloner is not checked.first_cloner:
            cloner.share_codec_of(checked.first_cloner)
        cloner.held_model = model
        clips = [ClipToSpeak(request, seed) for seed in settings.seeds for request in checked.requests[name]]
        half = Remedy("take fewer pieces at a time", ("--batch_size", str(settings.batch_size // 2)))
        smaller = [half] if settings.batch_size > 1 else []
        with naming_lack_of_memory(cloner.device, lambda: DURING_SPEECH, lambda found=smaller: found):
            spoken[name] = speak_set(
                cloner, clips, settings.output_dir, name, batch_size=settings.batch_size, ranks=ranks
            )
    if held is None:
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
    return None if settings.select is None else checkpoints_among(checked.adapters, settings.select)


def _system_record(system: System, clips: dict[str, list[JudgedClip]], settings: EvaluationSettings) -> dict[str, Any]:
    own = clips[system.name]
    compared = BASE in clips and system.name != BASE
    prompts = {"prompt_style": str(system.prompt_style), "text_normalisation": system.text_normalisation}
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
