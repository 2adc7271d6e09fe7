"""Drops samples of ChatML files by named rules, from what the check measures; writes the kept ones, and the reasons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError
from boson_multimodal.worker_pool import available_cores
from voice_cloning.corpora.card_licences import DATA_CARD
from voice_cloning.corpora.output_files import refuse_other_content, write_differing
from voice_cloning.data_check.check import Found, apply_rules, json_bytes, make_folder
from voice_cloning.data_check.clip_measures import ClipMeasures
from voice_cloning.data_check.filter_faults import clips_with_texts, find_faults, rate_bands
from voice_cloning.data_check.filter_files import (
    DROPPED_FILE,
    SUMMARY_FILE,
    card_content,
    check_names,
    dropped_content,
    kept_content,
)
from voice_cloning.data_check.filter_rules import TRANSCRIPT, VOICE, Bounds, chosen_rules
from voice_cloning.data_check.filter_summary import summarise_filter, why_nothing_is_left
from voice_cloning.data_check.filter_where import Chosen, choose_samples
from voice_cloning.data_check.kept_measures import embed_and_keep, measure_and_keep, recognise_and_keep
from voice_cloning.data_check.samples import CheckedSample, read_samples_of
from voice_cloning.data_check.summary import PlannedRun
from voice_cloning.data_check.voice_rules import AUTOMATIC, NO_MODEL, VoiceCheck, plan_voice_check
from voice_cloning.evaluation.recognisers import SpeechRecogniser

NO_RECOGNISER = "no recogniser is given; --asr names one"
LEAST_CLIPS = 2
"""A speaker with one utterance has no other one to be its reference."""


@dataclass(frozen=True, kw_only=True)
class FilterPlan:
    """What is to be dropped.

    Attributes:
        where: a condition on the records (``voice_cloning.corpora.where``). What it leaves out is dropped first: the
            other rules do not see it, and compare nothing with it.
        rules: names of the rules that apply; None takes all whose models are there.
        without: rules that do not apply.
        bounds: of the rules.
        run: the settings of training, which decide which records it refuses.
        speaker_model, speaker_threshold: as for the check; for the rule ``reference_of_another_voice``.
        recogniser: hears the clips, for the rule ``transcript``. If its weights are not loaded, they are when needed.
        recogniser_version: what tells recognisers of one name apart.
        least_clips: a speaker that keeps fewer samples is named.
    """

    where: str | None = None
    rules: Sequence[str] | None = None
    without: Sequence[str] = ()
    bounds: Bounds = Bounds()
    run: PlannedRun = PlannedRun()
    speaker_model: str = AUTOMATIC
    speaker_threshold: float | None = None
    recogniser: SpeechRecogniser | None = None
    recogniser_version: str = ""
    least_clips: int = LEAST_CLIPS


def filter_files(
    files: Sequence[Path | str],
    output_dir: Path | str,
    plan: FilterPlan | None = None,
    *,
    eval_files: Sequence[Path | str] = (),
    num_workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    announce: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Write the samples of ChatML files that no rule drops, under the same names, and why the others are dropped.

    Measures are kept in ``output_dir/measures``: a call that was killed goes on, and other bounds measure nothing
    again.

    Args:
        files: training and evaluation data; a file's name decides which it is.
        output_dir: made if it does not exist.
        plan: rules and bounds; None takes the defaults.
        eval_files: files that are evaluation data regardless of their names; they may be in ``files`` too.
        num_workers: processes that read clips; None takes one per core. With more than one, the calling script needs
            ``if __name__ == "__main__"``, because the processes are spawned.
        overwrite: replace files with other content.
        dry_run: write nothing but the measures.
        announce: is told what the condition keeps, before a clip is measured.

    Returns:
        The content of ``filter_summary.json``.

    Raises:
        InputError: if a file, a rule, a bound or a model cannot be used; if all samples of a file are dropped; or if
            files with other content exist. Nothing but measures is written then.
    """
    plan = plan or FilterPlan()
    folder, workers = Path(output_dir).expanduser(), available_cores() if num_workers is None else num_workers
    named = [Path(path).expanduser() for path in eval_files]
    paths = list(dict.fromkeys([*(Path(path).expanduser() for path in files), *named]))
    rules, voices, not_applied = _applied(plan)
    check_names(paths, folder)
    samples = read_samples_of(paths, named, plan.run.prompt, plan.run.text_normalisation, None)
    chosen = choose_samples(samples, plan.where, announce)
    make_folder(folder)
    measures = measure_and_keep(samples, folder, workers)
    found = _found(chosen, measures, plan.run, voices, workers, folder)
    if VOICE in rules and "threshold" not in found.voices:
        rules, not_applied = _without(rules, VOICE), not_applied | {VOICE: found.voices["statement"]}
    recognised = _recognised(chosen.samples, measures, folder, plan) if TRANSCRIPT in rules else {}
    faults = chosen.with_faults(find_faults(chosen.samples, measures, found, rules, plan.bounds, recognised))
    if nothing := why_nothing_is_left(samples, faults, plan.bounds):
        raise InputError("\n".join([*nothing, "nothing is written"]))
    bands = rate_bands(chosen.samples, found, plan.bounds)
    summary = summarise_filter(
        samples, measures, faults, bands, rules, plan.bounds, not_applied, found.voices, plan.least_clips, chosen.where
    )
    if not dry_run:
        _write(folder, _outputs(paths, samples, faults, folder, summary), overwrite)
    return summary


def _applied(plan: FilterPlan) -> tuple[tuple[str, ...], VoiceCheck, dict[str, str]]:
    """Return the rules that apply, how voices are compared, and why other rules do not apply.

    Raises:
        InputError: if the user named a rule that cannot apply.
    """
    rules = chosen_rules(plan.rules, plan.without, plan.where is not None)
    not_applied: dict[str, str] = {}
    if plan.recogniser is None and TRANSCRIPT in rules:
        not_applied[TRANSCRIPT] = NO_RECOGNISER
    if plan.recogniser is not None and TRANSCRIPT not in rules:
        raise InputError(f"--asr {plan.recogniser.name}: the rule {TRANSCRIPT} does not apply; leave --asr out")
    voices = plan_voice_check(plan.speaker_model if VOICE in rules else NO_MODEL, plan.speaker_threshold)
    if VOICE in rules and voices.model is None:
        not_applied[VOICE] = voices.reason
    for rule in not_applied:
        if rule in (plan.rules or ()):
            raise InputError(f"--rules {rule}: cannot be applied: {not_applied[rule]}")
        rules = _without(rules, rule)
    return rules, voices, not_applied


def _without(rules: Sequence[str], rule: str) -> tuple[str, ...]:
    return tuple(name for name in rules if name != rule)


def _found(
    chosen: Chosen,
    measures: dict[Clip, ClipMeasures],
    run: PlannedRun,
    voices: VoiceCheck,
    workers: int,
    folder: Path,
) -> Found:
    """Return what the rules of the check find in the chosen samples; clips of the others are compared with nothing."""
    own = {used.clip: measures[used.clip] for sample in chosen.samples for used in sample.clips}
    return apply_rules(chosen.samples, own, run, voices, workers, partial(embed_and_keep, own, folder))


def _recognised(
    samples: Sequence[CheckedSample], measures: dict[Clip, ClipMeasures], folder: Path, plan: FilterPlan
) -> dict[Clip, str]:
    """Return what the recogniser hears in each clip that has a text and can be used."""
    clips = dict.fromkeys(used.clip for sample in samples for used, _ in clips_with_texts(sample))
    usable = [clip for clip in clips if not measures[clip].problems]
    return recognise_and_keep(usable, measures, folder, plan.recogniser, plan.recogniser_version)


def _outputs(
    paths: Sequence[Path],
    samples: Sequence[CheckedSample],
    faults: dict[str, Any],
    folder: Path,
    summary: dict[str, Any],
) -> list[tuple[str, bytes]]:
    """Return name and content of each output, the kept records last: a folder with these is complete."""
    card = card_content(paths, summary)
    outputs = [(DROPPED_FILE, dropped_content(samples, faults)), (SUMMARY_FILE, json_bytes(summary))]
    outputs += [(DATA_CARD, card)] if card is not None else []
    for path in paths:
        own = [sample for sample in samples if sample.path == path]
        kept = [sample.sample_id not in faults for sample in own]
        outputs.append((path.name, kept_content(path, own, kept, folder)))
    return outputs


def _write(folder: Path, outputs: Sequence[tuple[str, bytes]], overwrite: bool) -> None:
    """Write the outputs that differ.

    Raises:
        InputError: if files with other content exist, and may not be replaced.
    """
    if not overwrite:
        refuse_other_content(folder, outputs)
    write_differing(folder, outputs)
