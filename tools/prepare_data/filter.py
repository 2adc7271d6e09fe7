"""Drop samples by named rules, from what check measures; keep the others as they are, and say why each was dropped.

    python -m tools.prepare_data filter TRAIN.json VAL.json --output_dir DIR
    python -m tools.prepare_data filter TRAIN.json --output_dir DIR --min_snr 30 --without silence --dry_run
    python -m tools.prepare_data filter TRAIN.json --output_dir DIR --where "dialect in ('Najdi', 'Hijazi')"
    python -m tools.prepare_data filter TRAIN.json --output_dir DIR --asr openai/whisper-large-v3 --max_cer 0.1

DIR gets the files under the same names with the kept records, dropped.jsonl with a line for each reason, and
filter_summary.json: hours and samples before and after, by rule, speaker and dialect. A bad target or a bad reference
drops the sample.

What was measured is kept in DIR/measures, also with --dry_run: a command that was killed goes on, and other bounds
measure nothing again. docs/filter.md describes the rules.
"""

import argparse
from pathlib import Path

from arabic_text.normalise import TEXT_NORMALISATIONS
from arabic_voice_cloning_dataset import PROMPT_STYLES
from boson_multimodal.errors import Problems, raise_if_any
from boson_multimodal.memory_remedies import advising_cpu
from voice_cloning.corpora.where import EXAMPLE, Condition
from voice_cloning.data_check.filter import LEAST_CLIPS, FilterPlan, filter_files
from voice_cloning.data_check.filter_files import DROPPED_FILE
from voice_cloning.data_check.filter_rules import (
    CHOOSABLE,
    RANGES,
    TRANSCRIPT,
    VOICE,
    Bounds,
    bounds_of,
    chosen_rules,
    shown_value,
)
from voice_cloning.data_check.filter_summary import summary_lines
from voice_cloning.data_check.summary import PlannedRun
from voice_cloning.data_check.voice_rules import AUTOMATIC, NO_MODEL
from voice_cloning.evaluation.identity import folder_version
from voice_cloning.evaluation.recognisers import find_recogniser

AS_YOU_TRAIN = "The value that you will train with."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    add, run, bounds = parser.add_argument, PlannedRun(), Bounds()
    add("files", nargs="+", type=Path, metavar="FILE", help="ChatML .json or .jsonl.")
    add(
        "--output_dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="Where the files are written, same names.",
    )
    add("--eval_data_path", nargs="+", type=Path, default=[], metavar="FILE", help="Evaluation data with other names.")
    add("--where", metavar="CONDITION", help=f"Drop the records that this is not true of, such as {EXAMPLE}.")
    add("--rules", nargs="+", metavar="NAME", help=f"Apply these rules only: {', '.join(CHOOSABLE)} (default: all).")
    add("--without", nargs="+", default=[], metavar="NAME", help="Leave these rules out.")
    for name, held in RANGES.items():
        default = getattr(bounds, name)
        shape = {"nargs": 2, "metavar": ("MIN", "MAX")} if isinstance(default, tuple) else {"metavar": held.unit}
        add(f"--{name}", type=float, help=f"{held.what} (default: {shown_value(default)}).", **shape)
    add("--asr", metavar="MODEL", help=f"{TRANSCRIPT}: folder or hub id of a recogniser. Without it, the rule is off.")
    add("--asr_revision", metavar="COMMIT", help="Commit of a recogniser on the hub.")
    add(
        "--speaker_model",
        default=AUTOMATIC,
        metavar="NAME",
        help=f"{VOICE}: resemblyzer, or the folder or hub id of a model with an x-vector head; {NO_MODEL} compares "
        "none (default: resemblyzer, if it is installed).",
    )
    add("--speaker_threshold", type=float, metavar="X", help=f"{VOICE}: least similarity of one voice.")
    add(
        "--min_clips_per_speaker",
        type=int,
        default=LEAST_CLIPS,
        metavar="N",
        help=f"Name the speakers that keep fewer samples (default: {LEAST_CLIPS}). They are not dropped.",
    )
    add("--num_workers", type=int, metavar="N", help="Processes that read clips (default: one for each core).")
    add("--prompt_style", default=run.prompt_style, choices=list(PROMPT_STYLES), help=AS_YOU_TRAIN)
    add("--prompt_template", metavar="FILE", help=f"{AS_YOU_TRAIN} Records without a field of it are errors.")
    add("--text_normalisation", default=run.text_normalisation, choices=list(TEXT_NORMALISATIONS), help=AS_YOU_TRAIN)
    for name in ("max_tokens_per_batch", "max_positions_per_sample"):
        default = getattr(run, name)
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{AS_YOU_TRAIN} Default {default}.")
    add("--dry_run", action="store_true", help="Print the table, and write nothing but the measures.")
    add("--overwrite", action="store_true", help="Replace files with other content in DIR.")


def run(flags: argparse.Namespace) -> int:
    """Filter the files and print the table. Returns the exit status."""
    plan = plan_of(flags)
    with advising_cpu("while the data were filtered; what was measured is kept"):
        summary = filter_files(
            flags.files,
            flags.output_dir,
            plan,
            eval_files=flags.eval_data_path,
            num_workers=flags.num_workers,
            overwrite=flags.overwrite,
            dry_run=flags.dry_run,
        )
    print("\n".join(summary_lines(summary)))
    if flags.dry_run:
        print("dry run: nothing but the measures is written")
    else:
        print(f"reasons: {flags.output_dir / DROPPED_FILE}")
    return 0


def plan_of(flags: argparse.Namespace) -> FilterPlan:
    """Return what the flags ask for.

    Raises:
        InputError: naming everything that is wrong with the flags.
    """
    numbers = ("num_workers", "min_clips_per_speaker", "max_tokens_per_batch", "max_positions_per_sample")
    given = {name: getattr(flags, name) for name in numbers}
    wrong = [f"--{name} {v}: must be at least 1" for name, v in given.items() if v is not None and v < 1]
    if flags.asr_revision is not None and flags.asr is None:
        wrong.append("--asr_revision is given without --asr")
    problems = Problems()
    rules = problems.tried(lambda: chosen_rules(flags.rules, flags.without, flags.where is not None))
    if flags.where is not None:
        problems.tried(lambda: Condition.parse(flags.where))
    applied = [rule for rule in rules or CHOOSABLE if rule != TRANSCRIPT or flags.asr is not None]
    if flags.speaker_threshold is not None and (VOICE not in applied or flags.speaker_model == NO_MODEL):
        wrong.append(f"--speaker_threshold: of the rule {VOICE}, which does not apply; leave it out")
    problems.tried(lambda: raise_if_any("settings of filter", wrong))
    bounds = problems.tried(lambda: bounds_of({name: getattr(flags, name) for name in RANGES}, applied))
    recogniser = flags.asr and problems.tried(lambda: find_recogniser(flags.asr, flags.asr_revision))
    settings = ("prompt_style", "prompt_template", "text_normalisation")
    settings += ("max_tokens_per_batch", "max_positions_per_sample")
    run = problems.tried(lambda: PlannedRun(**{name: getattr(flags, name) for name in settings}))
    problems.raise_all()
    return FilterPlan(
        where=flags.where,
        rules=flags.rules,
        without=flags.without,
        bounds=bounds,
        run=run,
        speaker_model=flags.speaker_model,
        speaker_threshold=flags.speaker_threshold,
        recogniser=recogniser,
        recogniser_version=folder_version(recogniser.folder) if recogniser is not None else "",
        least_clips=flags.min_clips_per_speaker,
    )
