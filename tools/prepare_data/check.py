"""Find defects in training data before a run: in records, clips, texts, pairs and the split into two sides.

    python -m tools.prepare_data check TRAIN.json VAL.json --output_dir DIR

Files are evaluation data if their name holds val, eval, dev or test, or if --eval_data_path names them. DIR gets
report.json and report.html; the page opens from disk and plays the clips that it lists. The check needs no GPU, no
codec and no model. With --model_path the model's tokenizer counts the text tokens; otherwise they are estimated. Give
the settings that you will train with: limits, steps and memory depend on them. With --codes, clips are checked from
their codes and need not be there.

The voices of references and targets are compared if Resemblyzer is installed, or with the model of --speaker_model.

Exit status: 1 if there is an error, 0 if there are only warnings or nothing.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from arabic_text.normalise import TEXT_NORMALISATIONS
from arabic_voice_cloning_dataset import PROMPT_STYLES
from boson_multimodal.errors import raise_if_any
from boson_multimodal.memory_remedies import advising_cpu
from voice_cloning.data_check.check import REPORT_FILE, check_files
from voice_cloning.data_check.summary import PlannedRun
from voice_cloning.data_check.voice_rules import AUTOMATIC, NO_MODEL
from voice_cloning.training.config import AUTO, RECOMPUTE_LEVELS

PRINTED_SAMPLES = 3
"""Samples of one finding that are printed."""
PRINTED_OF_CODES = ("clips_checked_from_codes", "not_measured", "advice", "decoded")
AS_YOU_TRAIN = "The value that you will train with."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    add, run = parser.add_argument, PlannedRun()
    add("files", nargs="+", type=Path, metavar="FILE", help="ChatML .json or .jsonl.")
    add("--output_dir", type=Path, required=True, metavar="DIR", help="Where report.json and report.html are written.")
    add("--eval_data_path", nargs="+", type=Path, default=[], metavar="FILE", help="Evaluation data with other names.")
    add("--model_path", metavar="DIR", help="Folder or hub id of the model, whose tokenizer counts the text tokens.")
    add("--codes", nargs="+", type=Path, default=[], metavar="FILE", help="Files of codes, as in training.")
    add("--audio_tokenizer_path", metavar="DIR", help="Codec that decodes --codes, so that the sound is checked too.")
    add(
        "--speaker_model",
        default=AUTOMATIC,
        metavar="NAME",
        help="Model that compares the voices of references and targets: resemblyzer, or the folder or hub id of a "
        f"model with an x-vector head; {NO_MODEL} compares none (default: resemblyzer, if it is installed).",
    )
    add(
        "--speaker_threshold",
        type=float,
        metavar="X",
        help="Similarity below which two clips are of two voices (default: known for resemblyzer, and found from the "
        "data for other models).",
    )
    add("--num_workers", type=int, metavar="N", help="Processes that read clips (default: one for each core).")
    add("--prompt_style", default=run.prompt_style, choices=list(PROMPT_STYLES), help=AS_YOU_TRAIN)
    add("--prompt_template", metavar="FILE", help=f"{AS_YOU_TRAIN} Records without a field of it are errors.")
    add(
        "--text_normalisation",
        default=run.text_normalisation,
        choices=list(TEXT_NORMALISATIONS),
        help=f"{AS_YOU_TRAIN} Texts are checked after this normalisation.",
    )
    for name in ("max_tokens_per_batch", "max_positions_per_sample", "gradient_accumulation_steps", "num_train_epochs"):
        default = getattr(run, name)
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{AS_YOU_TRAIN} Default {default}.")
    add("--num_processes", type=int, default=1, metavar="N", help="Processes of torchrun, for the number of steps.")
    levels = add("--recompute", default=run.recompute, choices=[AUTO, *RECOMPUTE_LEVELS], help=AS_YOU_TRAIN)
    add("--gradient_checkpointing", dest=levels.dest, action="store_const", const="layer", help="--recompute layer.")


def run(flags: argparse.Namespace) -> int:
    """Check the files and print the findings. Returns the exit status."""
    settings = {field.name: getattr(flags, field.name) for field in fields(PlannedRun)}
    too_low = [f"--{name} {v}: must be at least 1" for name, v in settings.items() if type(v) is int and v < 1]
    if flags.num_workers is not None and flags.num_workers < 1:
        too_low.append(f"--num_workers {flags.num_workers}: must be at least 1")
    raise_if_any("settings of check", too_low)
    with advising_cpu("while the data were checked"):
        report = check_files(
            flags.files,
            flags.output_dir,
            eval_files=flags.eval_data_path,
            run=PlannedRun(**settings),
            model_path=flags.model_path,
            num_workers=flags.num_workers,
            codes=flags.codes,
            audio_tokenizer_path=flags.audio_tokenizer_path,
            speaker_model=flags.speaker_model,
            speaker_threshold=flags.speaker_threshold,
        )
    print("\n".join(_lines(report)))
    print(f"all findings: {flags.output_dir / REPORT_FILE} and report.html beside it")
    return 1 if report["errors"] else 0


def _lines(report: dict[str, Any]) -> list[str]:
    """Return the lines of the report for the terminal."""
    summary = report["summary"]
    lines = [f"{f['path']}: {f['side']}, {f['samples']} samples, {f['hours']:.2f} h" for f in summary["files"]]
    for severity, entries in (("error", report["errors"]), ("warning", report["warnings"])):
        for entry in entries:
            size = f"{entry['count']} sample(s), {100 * entry['hours_share']:.1f} % of the hours"
            lines += ["", f"{severity}: {entry['kind']}: {size}", f"  {entry['advice']}"]
            details = list(entry["details"].items())
            lines += [f"  - {sample_id}: {detail}" for sample_id, detail in details[:PRINTED_SAMPLES]]
            if len(details) > PRINTED_SAMPLES:
                lines.append(f"  ... and {len(details) - PRINTED_SAMPLES} more")
    how = "counted" if summary["tokens_are_counted"] else "estimated; --model_path counts them"
    medians = {name: h["median"] for name, h in summary["histograms"].items() if h["median"] is not None}
    lines += [
        "",
        f"{len(report['errors'])} kind(s) of error, {len(report['warnings'])} kind(s) of warning",
        f"{summary['hours']:.2f} h of targets in {summary['clips']} clips by {len(summary['speakers'])} speakers; "
        f"{summary['frames']:,} frames, {summary['tokens']:,} text tokens ({how})",
        f"voices: {summary['voices']['statement']}",
        "medians: " + ", ".join(f"{name} {value:.3g}" for name, value in medians.items()),
        f"training: {summary['expected_steps']} optimizer steps; memory: {summary['memory_class']}",
    ]
    codes = summary.get("codes", {})
    return lines + [f"{name.replace('_', ' ')}: {codes[name]}" for name in PRINTED_OF_CODES if name in codes]
