"""Find what is wrong with ChatML data, before hours are spent on it: no GPU, no weights.

    python -m tools.prepare_data check TRAIN.json --eval VAL.json --output_dir DIR

reads the records and every clip, prints what it finds, and writes DIR/report.json. Errors (exit status 1) make training
fail or its evaluation worthless; warnings are for you to judge. With --model_path, a folder or hub id, texts are
tokenized too, and lengths and steps are exact.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from arabic_voice_cloning_dataset import PROMPT_STYLES
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.errors import InputError
from tools.prepare_data.audio_facts import AudioFacts
from tools.prepare_data.checked_samples import CheckedSample, read_samples_of
from tools.prepare_data.clip_pool import measure_clips
from tools.prepare_data.findings import ERRORS, WARNINGS, Findings
from tools.speech_audio import write_whole
from training_config import MODEL_REVISION


@dataclass(kw_only=True)
class CheckSettings:
    """The trainer's flags that decide lengths and steps, as in its --help; and the processes that read clips."""

    model_path: str | None = None
    model_revision: str = MODEL_REVISION
    prompt_style: str = "as_written"
    max_positions_per_sample: int = 2048
    max_tokens_per_batch: int = 2048
    batch_size: int | None = None
    gradient_accumulation_steps: int = 1
    world_size: int = 1
    num_train_epochs: int = 3
    gradient_checkpointing: bool = False
    processes: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    add, default = parser.add_argument, CheckSettings()
    add("files", nargs="+", type=Path, metavar="FILE", help="ChatML .json or .jsonl to train on.")
    add("--eval", nargs="+", type=Path, default=[], metavar="FILE", help="ChatML files to evaluate on.")
    add("--output_dir", type=Path, required=True, help="Folder for the report.")
    add("--model_path", help="Folder or hub id of the model, for its tokenizer alone.")
    add("--model_revision", default=default.model_revision, help="Commit of model_path, if it is a hub id.")
    add("--prompt_style", choices=list(PROMPT_STYLES), default=default.prompt_style, help="As you will train.")
    for name in ("max_positions_per_sample", "max_tokens_per_batch", "gradient_accumulation_steps", "num_train_epochs"):
        add(f"--{name}", type=int, default=getattr(default, name), help="As you will train.")
    add("--batch_size", type=int, help="As you will train.")
    add("--gradient_checkpointing", action="store_true", help="As you will train.")
    add("--world_size", type=int, default=default.world_size, help="GPUs that you will train on.")
    add("--processes", type=int, help="That read clips; by default one a core.")


def run(flags: argparse.Namespace) -> int:
    """The verb. Returns 1 if there are errors."""
    names = CheckSettings.__dataclass_fields__
    settings = CheckSettings(**{name: getattr(flags, name) for name in names})
    report = check_data(flags.files, flags.output_dir, eval_paths=flags.eval, settings=settings)
    for level in ("errors", "warnings"):
        for found in report[level]:
            print(f"{level[:-1]:8} {found['kind']:32} {found['count']:6}")
    return 1 if report["errors"] else 0


def check_data(
    paths: Sequence[Path],
    output_dir: Path,
    *,
    eval_paths: Sequence[Path] = (),
    settings: CheckSettings | None = None,
) -> dict[str, Any]:
    """Check files to train on and to evaluate on; write ``output_dir/report.json`` and return what it holds.

    Raises:
        InputError: if a file is not JSON, the tokenizer is not to be had, or the folder cannot be written to.
    """
    settings = settings or CheckSettings()
    tokenizer = None if settings.model_path is None else AutoTokenizer.from_pretrained(settings.model_path)
    samples, files = read_samples_of({"train": paths, "eval": eval_paths}, settings.prompt_style, tokenizer)
    facts = measure_clips(list(dict.fromkeys(clip for s in samples for clip in s.clips)), settings.processes)
    findings = find_all(samples, facts)
    seconds = {s.sample_id: sum(facts[clip].seconds for clip in s.targets) for s in samples}
    report = {"errors": findings.of(list(ERRORS), seconds), "warnings": findings.of(list(WARNINGS), seconds)}
    report["summary"] = {"files": files}
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_whole(output_dir / "report.json", (json.dumps(report, ensure_ascii=False, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"{output_dir}: cannot be written to ({error.strerror})") from error
    return report


def find_all(samples: Sequence[CheckedSample], facts: dict[Clip, AudioFacts]) -> Findings:
    """Apply every rule."""
    findings = Findings()
    for sample in samples:
        for problem in sample.problems:
            findings.add("missing_text" if sample.lacks_text else "malformed_record", sample.sample_id, problem)
        for clip in sample.clips:
            if facts[clip].problem:
                findings.add(facts[clip].problem[0], sample.sample_id, facts[clip].problem[1])
            elif facts[clip].rate < 24000:
                findings.add("low_sample_rate", sample.sample_id, f"{facts[clip].rate} Hz")
    return findings
