"""Chooses the best checkpoint of a training run by an evaluation, and writes the choice into the folder of the run."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boson_multimodal.circumstances import home_path
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.whole_files import write_whole
from voice_cloning.adapters.model_card import write_checkpoint_card
from voice_cloning.adapters.selection_lines import adapter_sha256, decided_by
from voice_cloning.evaluation.report import JudgedClip, differences
from voice_cloning.evaluation.selection import RULES, Candidate, choose, forgotten
from voice_cloning.speech.adapter_folders import adapter_folders
from voice_cloning.speech.voices import print_warnings
from voice_cloning.training.checkpoints import (
    SELECTION_FILE,
    checkpoint_step,
    has_checkpoint_name,
    is_written_by_program,
    named_checkpoints,
)
from voice_cloning.training.metrics import METRICS_FILE, read_metrics_lines
from voice_cloning.training.run_directory import is_in_use


def run_checkpoints(run_folder: str) -> list[Path]:
    """Return the checkpoints of a run by step.

    Raises:
        InputError: if the folder has fewer than two.
    """
    folder = home_path(run_folder, "--select")
    if not folder.is_dir():
        raise InputError(f"--select {folder}: no such folder; give the --output_dir of a training run")
    found = list(filter(is_written_by_program, named_checkpoints(folder)))
    if len(found) < 2:
        raise InputError(
            f"--select {folder}: {len(found)} checkpoints in it, and there is something to choose from 2 on; give the "
            "--output_dir of a training run, and train with more --save_steps in a run, or with a larger "
            "--save_total_limit"
        )
    return found


def other_adapters(adapters: Sequence[str], checkpoints: Sequence[Path]) -> list[str]:
    """Return the adapters that are none of a run's checkpoints, which are evaluated anyway."""
    own = {path.resolve() for path in checkpoints}
    return [str(path) for path in adapter_folders(adapters) if path.resolve() not in own]


def checkpoints_among(adapters: Mapping[str, Path], run_folder: Path) -> dict[str, Path]:
    """Return the folders of those adapters that are checkpoints of a run, by name of the system. Links are followed."""
    found = {name: path.resolve() for name, path in adapters.items()}
    folder = run_folder.resolve()
    return {name: path for name, path in found.items() if path.parent == folder and has_checkpoint_name(path)}


def check_selection(run_folder: Path, adapters: Mapping[str, Path]) -> list[str]:
    """Check that a choice can be made and written. Return warnings.

    Raises:
        InputError: if fewer than two adapters are checkpoints of the run, or listing the folders that cannot be
            written.
    """
    checkpoints = checkpoints_among(adapters, run_folder)
    if len(checkpoints) < 2:
        raise InputError(
            f"select {run_folder}: {len(checkpoints)} of the adapters are checkpoints in this folder; give at least "
            "two (run_checkpoints() returns all)"
        )
    folders = [run_folder, *checkpoints.values()]
    remedy = "make it writable, or give a copy of the run"
    raise_if_any(
        "the choice cannot be written",
        [f"--select {folder}: cannot be written; {remedy}" for folder in folders if not os.access(folder, os.W_OK)],
    )
    if not is_in_use(run_folder):
        return []
    return [
        f"--select {run_folder}: a process is training into it; a checkpoint that it removes meanwhile is compared "
        "all the same, and later ones are not"
    ]


def eval_losses(run_folder: Path) -> dict[int, float]:
    """Return the evaluation losses of a run by step, as far as its metrics have them."""
    path = run_folder / METRICS_FILE
    records = read_metrics_lines(path).numbers if path.is_file() else []
    return {record["step"]: record["eval_loss"] for record in records if "eval_loss" in record}


def select_checkpoint(
    checkpoints: Mapping[str, Path],
    clips: Mapping[str, Sequence[JudgedClip]],
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]],
    retention: dict[str, Any] | None,
    bound: float,
) -> dict[str, Any]:
    """Choose among the checkpoints of one run by the rule of ``selection.py``, and return the choice for JSON.

    Args:
        checkpoints: folders by name of the system.
        clips, figures: the judged clips and the figures of each system.
        retention: the part of the report about the retention set, or None.
        bound: the largest rise of the error rate on the retention set.
    """
    losses = eval_losses(next(iter(checkpoints.values())).parent)
    kept = {system["name"]: system["differences"] for system in retention["systems"]} if retention else {}
    candidates = []
    for name, folder in checkpoints.items():
        step = checkpoint_step(folder)
        values = {figure: found["value"] for figure, found in figures[name].items()}
        out = forgotten(kept[name], bound) if name in kept else None
        candidates.append(Candidate(name, step, losses.get(step), values, out))
    chosen, comparisons = choose(candidates, lambda best, other: differences(clips[best], clips[other]))
    by_loss = min((c for c in candidates if c.eval_loss is not None), key=lambda c: c.eval_loss, default=None)
    return {
        "chosen": chosen,
        "rule": [*RULES, "the lower word error rate, else the lower evaluation loss"],
        "retention_bound": bound,
        "by_eval_loss": by_loss and by_loss.name,
        "comparisons": comparisons,
    }


def write_selection(run_folder: Path, checkpoints: Mapping[str, Path], report: dict[str, Any]) -> None:
    """Write the choice of a report into the folder of the run, and the cards of its checkpoints anew.

    It says on stderr if it replaces a choice by another set or recogniser, and which checkpoints have been removed.

    Raises:
        InputError: if a file cannot be written.
    """
    path = run_folder / SELECTION_FILE
    notes = [f"{folder}: has been removed; it gets no card" for folder in checkpoints.values() if not folder.is_dir()]
    try:
        content = _content(checkpoints, report)
        notes += _replaced(path, content)
        write_whole(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
        for checkpoint in checkpoints.values():
            if checkpoint.is_dir():
                write_checkpoint_card(checkpoint, run_folder)
    except OSError as error:
        raise InputError(
            f"--select {run_folder}: the choice cannot be written into the run ({error.strerror}); the report of the "
            "evaluation is complete"
        ) from error
    print_warnings(notes)


def _content(checkpoints: Mapping[str, Path], report: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``selection.json``."""
    selection, retention = report["selection"], report["retention"]
    systems = {system["name"]: system for system in report["systems"]}
    content = {
        **{name: report[name] for name in ("set", "recogniser", "speaker_model", "seeds", "sampling")},
        "adapter_scale": systems[next(iter(checkpoints))]["adapter_scale"],
        **selection,
        "checkpoints": {
            name: {"folder": path.name, "adapter_sha256": adapter_sha256(path), "figures": systems[name]["figures"]}
            for name, path in checkpoints.items()
        },
        "retention": retention
        and {
            "set": retention["set"],
            "differences": {s["name"]: s["differences"] for s in retention["systems"] if s["name"] in checkpoints},
        },
    }
    if selection["chosen"] is not None:
        content["folder"] = checkpoints[selection["chosen"]].name
    return content


def _replaced(path: Path, content: dict[str, Any]) -> list[str]:
    """Return a warning if a file holds a choice by another set or recogniser, which is replaced now."""
    if not path.is_file():
        return []
    try:
        before = json.loads(path.read_bytes().decode("utf-8"))
        what = {name: before[name] for name in ("set", "recogniser")}
        chosen = before["chosen"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return [f"{path}: was damaged, and is replaced"]
    if all(content[name] == value for name, value in what.items()):
        return []
    return [f"{path}: replaces the choice of {chosen} by set {what['set']} and recogniser {what['recogniser']}"]


def selection_line(selection: dict[str, Any]) -> str:
    """Return the choice in one line."""
    if selection["chosen"] is None:
        return "no checkpoint was chosen: each of them has forgotten more than --retention_bound allows"
    by_loss = selection["by_eval_loss"]
    other = "which has the lowest evaluation loss too" if by_loss == selection["chosen"] else f"by loss: {by_loss}"
    if by_loss is None:
        other = "the run has no evaluation loss of these checkpoints"
    comparisons = selection["comparisons"]
    rules = {comparison["rule"] for comparison in comparisons if "compared_with" in comparison}
    if rules and rules <= {"eval_loss", "none"}:
        other += "; no figure of speech tells them apart, so nothing but the loss decided"
    return f"best checkpoint: {selection['chosen']} ({decided_by(comparisons, selection['chosen'])}); {other}"
