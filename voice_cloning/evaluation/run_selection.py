"""Chooses the best checkpoint of a training run by an evaluation, and writes the choice into the folder of the run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boson_multimodal.circumstances import home_path
from boson_multimodal.errors import InputError
from boson_multimodal.whole_files import write_whole
from voice_cloning.adapters.model_card import write_checkpoint_card
from voice_cloning.evaluation.report import JudgedClip, differences
from voice_cloning.evaluation.selection import RULES, Candidate, choose, forgotten
from voice_cloning.training.checkpoints import SELECTION_FILE, checkpoint_step, is_written_by_program, named_checkpoints
from voice_cloning.training.metrics import METRICS_FILE, read_metrics_lines


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
            f"--select {folder}: {len(found)} checkpoints in it, and there is something to choose from 2 on; train "
            "with more --save_steps in a run, or with a larger --save_total_limit"
        )
    return found


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

    Raises:
        InputError: if a file cannot be written.
    """
    selection, chosen = report["selection"], report["selection"]["chosen"]
    figures = {system["name"]: system["figures"] for system in report["systems"]}
    retention = report["retention"]
    content = {
        **{name: report[name] for name in ("set", "recogniser", "speaker_model", "seeds")},
        **selection,
        "checkpoints": {name: {"folder": path.name, "figures": figures[name]} for name, path in checkpoints.items()},
        "retention": retention
        and {
            "set": retention["set"],
            "differences": {s["name"]: s["differences"] for s in retention["systems"] if s["name"] in checkpoints},
        },
    }
    if chosen is not None:
        content["folder"] = checkpoints[chosen].name
    path = run_folder / SELECTION_FILE
    try:
        write_whole(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
        for checkpoint in checkpoints.values():
            write_checkpoint_card(checkpoint, run_folder)
    except OSError as error:
        raise InputError(f"{path}: the choice cannot be written ({error.strerror})") from error


def selection_line(selection: dict[str, Any]) -> str:
    """Return the choice in one line."""
    if selection["chosen"] is None:
        return "no checkpoint was chosen: each of them has forgotten more than --retention_bound allows"
    told = [c for c in selection["comparisons"] if c["candidate"] == selection["chosen"]]
    by_loss = selection["by_eval_loss"]
    other = "which has the lowest evaluation loss too" if by_loss == selection["chosen"] else f"by loss: {by_loss}"
    return f"best checkpoint: {selection['chosen']} (decided by: {told[0]['rule']}); {other}"
