"""Judge the speech of a base model, adapters, merged models or finished WAVs on a test set, side by side.

    python -m tools.evaluate --adapter EXPMT/a/checkpoint-000200 --test_set val.json --output_dir EVALUATION \\
        --asr openai/whisper-large-v3 --asr_revision COMMIT --speaker_model resemblyzer --mos dnsmos

The test set is a file of ChatML records, a manifest as tools.synthesize takes it, or a list of texts; texts without
references are spoken in the voices of --references. EVALUATION/report.json and report.html hold the figures with their
intervals, the differences to the base, and every clip. The same command, given again, goes on where it was stopped, and
makes only what changed. With torchrun, all processes share the work. docs/evaluation.md says what each figure means.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from boson_multimodal.circumstances import home_path
from boson_multimodal.command_line import run_command
from boson_multimodal.device import pick_device, usable_device
from boson_multimodal.errors import Problems, call_for_each, result_or_message
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from boson_multimodal.process_group import Ranks
from tools.speech_flags import (
    Flags,
    HelpWithDefaults,
    add_adapter_scale_flag,
    add_adapters_flag,
    add_computation_flags,
    add_model_flags,
    add_prompt_flags,
    add_sampling_flags,
    fields_of,
    sampling_of,
)
from voice_cloning.evaluation.evaluation import evaluate
from voice_cloning.evaluation.evaluation_input import EvaluationSettings, look_at_evaluation
from voice_cloning.evaluation.identity import folder_version
from voice_cloning.evaluation.judgement import Judges
from voice_cloning.evaluation.naturalness import DNSMOS, load_mos
from voice_cloning.evaluation.recognisers import find_recogniser
from voice_cloning.evaluation.report import table
from voice_cloning.evaluation.report_page import PAGE_FILE
from voice_cloning.evaluation.retention import retention_part, retention_settings
from voice_cloning.evaluation.run_selection import other_adapters, run_checkpoints, selection_line
from voice_cloning.evaluation.selection import RETENTION_BOUND
from voice_cloning.evaluation.similarity import find_speaker_model
from voice_cloning.evaluation.systems import SystemSettings
from voice_cloning.speech.adapter_folders import folder_lines
from voice_cloning.speech.adapter_run import asked_form
from voice_cloning.speech.speaking_model import HeldModel
from voice_cloning.speech.speech import SpeechSettings
from voice_cloning.speech.text_pieces import SLOWEST_LETTERS_PER_SECOND


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluate", description=__doc__, formatter_class=HelpWithDefaults, allow_abbrev=False
    )
    _add_set_flags(parser.add_argument_group("set and output"))
    _add_system_flags(parser.add_argument_group("systems"))
    _add_judge_flags(parser.add_argument_group("judges"))
    _add_choice_flags(parser.add_argument_group("choice of a checkpoint, and forgetting"))
    add_prompt_flags(parser.add_argument_group("prompts"))
    _add_generation_flags(parser.add_argument_group("speech"))
    add_computation_flags(parser.add_argument_group("computation"))
    return parser.parse_args(arguments)


def _add_set_flags(group: Flags) -> None:
    add = group.add_argument
    add("--test_set", required=True, help="File of the test set.")
    add("--references", help="Manifest of clips with texts: the voices for a set that has none.")
    add("--output_dir", required=True, help="Folder of the evaluation: new, or that of an earlier call.")
    add("--title", help="Title of the report; by default the names of the set and of the systems.")


def _add_system_flags(group: Flags) -> None:
    add = group.add_argument
    add_model_flags(group)
    add(
        "--codes",
        nargs="+",
        default=[],
        help="Files of codes of the set's clips. With them, the codec may be missing; then nothing can be heard.",
    )
    add("--no_base", action="store_true", help="Leave the base model out.")
    add_adapters_flag(group)
    add_adapter_scale_flag(group)
    add("--merged", nargs="+", action="extend", default=[], help="Merged models: folders or hub ids.")
    add(
        "--wavs",
        nargs="+",
        action="extend",
        default=[],
        help="Folders with ID.wav for each item, such as the output of tools.synthesize.",
    )


def _add_judge_flags(group: Flags) -> None:
    add = group.add_argument
    add(
        "--asr",
        help="Speech recogniser for WER and CER: folder or hub id for transformers, or a faster-whisper folder.",
    )
    add("--asr_revision", help="Commit of asr, if it is a hub id.")
    add("--speaker_model", help="Speaker model for SIM: folder or hub id of an x-vector model, or resemblyzer.")
    add("--speaker_model_revision", help="Commit of speaker_model, if it is a hub id.")
    add("--mos", choices=[DNSMOS], help="Model that predicts the naturalness.")


def _add_choice_flags(group: Flags) -> None:
    add = group.add_argument
    add(
        "--select",
        metavar="RUN_DIR",
        help="Evaluate the checkpoints of a training run, name the best one by a stated rule, and write the choice "
        "into RUN_DIR/selection.json and the model cards.",
    )
    add(
        "--retention",
        help="A second set, of what the base could do before: other languages, other voices, its own prompts. The "
        "report shows the change of each adapter against the base.",
    )
    add("--retention_references", help="Voices of the second set; by default those of references.")
    add(
        "--retention_bound",
        type=float,
        help="For select with retention: a checkpoint is out if its error rate on the second set is certainly more "
        f"than this above the base's; by default {RETENTION_BOUND}.",
    )


def _add_generation_flags(group: Flags) -> None:
    add = group.add_argument
    add("--seeds", type=int, nargs="+", default=[0], help="Each sentence is spoken once for each seed.")
    add("--batch_size", type=int, default=8, help="Pieces per batch. Memory grows with it.")
    add_sampling_flags(group)
    add(
        "--slowest_letters_per_second",
        type=float,
        default=SLOWEST_LETTERS_PER_SECOND,
        help="Slower speech is cut and counts as not ended; diacritics do not count.",
    )


def settings_of(
    flags: argparse.Namespace, device: torch.device, checkpoints: Sequence[Path], problems: Problems
) -> EvaluationSettings:
    """Return the settings that the flags ask for. The default stands for a value that is out of range.

    Args:
        device: where the model runs.
        checkpoints: those of ``--select``.
        problems: gets each value that is out of range.
    """
    slowest = flags.slowest_letters_per_second
    sampling = problems.tried(lambda: sampling_of(flags)) or SamplingConfig()
    speech = problems.tried(
        lambda: SpeechSettings(sampling=sampling, retries=0, slowest_letters_per_second=slowest)
    ) or SpeechSettings(retries=0)
    others = problems.tried(lambda: other_adapters(flags.adapter, checkpoints))
    systems = SystemSettings(
        model_path=flags.model_path,
        model_revision=flags.model_revision,
        audio_tokenizer_path=flags.audio_tokenizer_path,
        audio_tokenizer_revision=flags.audio_tokenizer_revision,
        codes=tuple(flags.codes),
        base=not flags.no_base,
        adapters=(*(flags.adapter if others is None else others), *map(str, checkpoints)),
        merged=tuple(flags.merged),
        wavs=tuple(flags.wavs),
        adapter_scale=flags.adapter_scale,
        prompt_style=problems.tried(lambda: asked_form(flags.prompt_style, flags.prompt_template)),
        prompt_fields=tuple(fields_of(flags).items()),
        text_normalisation=flags.text_normalisation,
        torch_dtype=flags.torch_dtype,
        quantise=flags.quantise,
        device=str(device),
        speech=speech,
    )
    paths = {name: _path(flags, name) for name in ("test_set", "references", "output_dir")}
    # A run without checkpoints is a problem already.
    fixed = {
        "systems": systems,
        **paths,
        "title": flags.title,
        "select": _path(flags, "select") if checkpoints else None,
    }
    bound = RETENTION_BOUND if flags.retention_bound is None else flags.retention_bound
    numbers = {"seeds": tuple(flags.seeds), "batch_size": flags.batch_size, "retention_bound": bound}
    return problems.tried(lambda: EvaluationSettings(**fixed, **numbers)) or EvaluationSettings(**fixed)


def retention_of(
    flags: argparse.Namespace, settings: EvaluationSettings, problems: Problems
) -> EvaluationSettings | None:
    """Return the settings of the evaluation on the retention set; None without one, or if it cannot be made.

    Args:
        problems: gets each flag for a set that is not given.
    """
    if flags.retention_bound is not None and None in (flags.retention, flags.select):
        problems.add(f"--retention_bound {flags.retention_bound}: acts with --select and --retention alone")
    if flags.retention is None:
        if flags.retention_references is not None:
            problems.add(f"--retention_references {flags.retention_references}: there is no --retention")
        return None
    voices = _path(flags, "retention_references") or settings.references
    return problems.tried(lambda: retention_settings(settings, _path(flags, "retention"), voices))


def _path(flags: argparse.Namespace, name: str) -> Path | None:
    """Return the path of a flag, or None if it is not given."""
    word = getattr(flags, name)
    return None if word is None else home_path(word, f"--{name}")


def find_judges(flags: argparse.Namespace, device: torch.device, problems: Problems) -> Judges:
    """Return the models that judge, checked but without their weights.

    Args:
        device: where they run.
        problems: gets each of them that cannot be used, and each revision of none.
    """
    for name in ("asr", "speaker_model"):
        if getattr(flags, f"{name}_revision") is not None and getattr(flags, name) is None:
            problems.add(f"--{name}_revision is given without --{name}")
    asr, speaker_model, mos = flags.asr, flags.speaker_model, flags.mos
    return Judges(
        asr and problems.tried(lambda: find_recogniser(asr, flags.asr_revision, device)),
        speaker_model
        and problems.tried(lambda: find_speaker_model(speaker_model, flags.speaker_model_revision, device)),
        mos and problems.tried(lambda: load_mos(mos)),
        {
            field: folder_version(Path(path))
            for field, path in (("recogniser", asr), ("speaker_model", speaker_model))
            if path is not None and Path(path).is_dir()
        },
    )


def load_judges(judges: Judges) -> None:
    """Load the weights of the models that judge.

    Raises:
        InputError: naming all of them whose weights are damaged.
    """
    # The larger one comes last. The package of --mos loads its weights itself.
    call_for_each(lambda judge: judge.load(), [found for found in (judges.speaker_model, judges.recogniser) if found])


def run(flags: argparse.Namespace) -> int:
    """Evaluate, and print the table. Return the exit status.

    Raises:
        InputError: with everything that is wrong, before any weight is loaded.
    """
    ranks, problems = Ranks.join(), Problems()
    wanted = flags.device or pick_device(ranks.local_rank)
    device = problems.tried(lambda: usable_device(wanted)) or torch.device("cpu")
    found: tuple[list[Path] | None, str | None] = None, None
    if ranks.is_main and flags.select is not None:
        found = result_or_message(lambda: run_checkpoints(flags.select))
    checkpoints, message = ranks.broadcast_object(found)  # all processes take the same ones, also of a run that saves
    problems.add(message)
    settings = settings_of(flags, device, checkpoints or (), problems)
    kept = retention_of(flags, settings, problems)
    judges = find_judges(flags, device, problems)
    needs_sound = bool(flags.asr or flags.speaker_model or flags.mos)
    with nullcontext() if ranks.is_main else redirect_stderr(io.StringIO()):  # each process would print the warnings
        both = [(one, *look_at_evaluation(one, needs_sound)) for one in (kept, settings) if one is not None]
    for _, _, wrong in both:
        problems.add_all(wrong)
    problems.raise_all()
    if ranks.is_main:
        for line in folder_lines(flags.adapter):
            print(line, file=sys.stderr)
    load_judges(judges)
    retention = report = None
    model, first = HeldModel(most_bytes=0), both[0][1].first_cloner  # both sets are spoken by the same weights
    for one, checked, _ in both:
        if checked.first_cloner is not first:
            checked.first_cloner.share_codec_of(first)
        report = evaluate(
            one,
            checked=checked,
            recogniser=judges.recogniser,
            speaker_model=judges.speaker_model,
            mos=judges.mos,
            judge_versions=judges.versions,
            ranks=ranks,
            retention=retention,
            model=model,
        )
        retention = retention_part(report)
    if ranks.is_main:
        print("\n".join(table(report)))
        if report["selection"]:
            print(selection_line(report["selection"]))
        print(settings.output_dir / PAGE_FILE)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Return its exit status."""
    disable_progress_bar()  # the bar of transformers for loading weights
    return run_command(
        lambda: run(parse_arguments(arguments)),
        "interrupted; all written clips and judgements are complete; the same command goes on",
        takes_sigterm=True,
    )


if __name__ == "__main__":
    sys.exit(main())
