"""What a model card says of the choice among the checkpoints of a run (``selection.json``)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_config import ADAPTER_FILE
from voice_cloning.training.checkpoints import SELECTION_FILE

SHOWN = {
    "stop_rate": "stop rate",
    "length_ratio": "length ratio",
    "wer_scoring": "WER",
    "cer_scoring": "CER",
    "sim_reference": "SIM to the reference",
    "mos": "MOS",
}
"""Figures that a card shows, in this order."""


RULE_NAMES = {**SHOWN, "eval_loss": "the evaluation loss", "wer_scoring, not certain": "WER, which is not certain"}


def adapter_sha256(checkpoint: Path) -> str | None:
    """Return the SHA-256 of an adapter's weights; None if they are gone."""
    try:
        with (checkpoint / ADAPTER_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def read_selection(run_folder: Path, checkpoint: Path) -> dict[str, Any] | None:
    """Return what the choice of a run says of one of its checkpoints.

    A run that saves must not end because of this file, which another command wrote.

    Returns:
        None if the run has no choice, if it is damaged, or if it was made of other weights: a run that was resumed
        further back has written this checkpoint anew.
    """
    path = run_folder / SELECTION_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
        names = {of["folder"]: name for name, of in found["checkpoints"].items()}
        name = names.get(checkpoint.name)
        if name is None or found["checkpoints"][name]["adapter_sha256"] != adapter_sha256(checkpoint):
            return None
        retention = found["retention"]
        return {
            "chosen": found["chosen"] == name,
            "of": len(names),
            "set": found["set"]["name"],
            "sentences": found["set"]["sentences"],
            "adapter_scale": found["adapter_scale"],
            "recogniser": found["recogniser"],
            "speaker_model": found["speaker_model"],
            "decided_by": decided_by(found["comparisons"], name),
            "figures": {n: f for n, f in found["checkpoints"][name]["figures"].items() if n in SHOWN},
            "retention": retention
            and {
                "set": retention["set"]["name"],
                "differences": {n: f for n, f in retention["differences"][name].items() if n in SHOWN},
            },
        }
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def decided_by(comparisons: Sequence[dict[str, Any]], name: str) -> str:
    """Return why a checkpoint was chosen or not.

    Args:
        comparisons: those of ``selection.json``, in their order.
        name: of the checkpoint.
    """
    own = next(comparison for comparison in comparisons if comparison["candidate"] == name)
    lost = [c for c in comparisons if c.get("compared_with") == name and c["is_better"]]
    if lost:
        return f"{lost[0]['candidate']} is better by {_rule(lost[0])}"
    if own["rule"].startswith("retention: "):
        return f"out by {own['rule']}"
    if "compared_with" not in own:
        return "no later one is better"
    if own["is_better"]:
        return f"better than {own['compared_with']} by {_rule(own)}"
    if own["rule"] == "none":
        return f"nothing says that it is better than {own['compared_with']}"
    return f"{own['compared_with']} is better by {_rule(own)}"


def _rule(comparison: dict[str, Any]) -> str:
    """Return the rule of a comparison, with the difference of the candidate to the best one before it."""
    name, difference = RULE_NAMES.get(comparison["rule"], comparison["rule"]), comparison["difference"]
    if difference is None:
        return name
    # The better one is named first in the sentence: what is told is better minus worse.
    value, low, high = (difference[end] for end in ("value", "low", "high"))
    if not comparison["is_better"]:
        value, low, high = -value, -high, -low
    return f"{name}, {value:+.3f} ({low:+.3f} to {high:+.3f})"


def selection_lines(selection: dict[str, Any] | None) -> list[str]:
    """Return the lines of a card about :func:`read_selection`."""
    if not selection:
        return []
    verdict = "chosen as the best" if selection["chosen"] else "not chosen"
    scale = selection["adapter_scale"]
    lines = [
        f"- {verdict} of {selection['of']} checkpoints by its speech on `{selection['set']}` "
        f"({selection['sentences']} sentences): {selection['decided_by']}"
    ]
    if scale != 1.0:
        lines.append(f"- this speech was made with `--adapter_scale {scale}`")
    lines += _figure_lines("", selection["figures"])
    if selection["retention"]:
        of_set = f"change against the base on `{selection['retention']['set']}`: "
        lines += _figure_lines(of_set, selection["retention"]["differences"])
    judges = {"recogniser": selection["recogniser"], "speaker model": selection["speaker_model"]}
    told = ", ".join(f"{kind} `{name}`" for kind, name in judges.items() if name is not None)
    return [*lines, f"- judged by {told or 'no further model'}; intervals are of 95 %"]


def _figure_lines(prefix: str, figures: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"- {prefix}{title} {figures[name]['value']:.3f} ({figures[name]['low']:.3f} to {figures[name]['high']:.3f})"
        for name, title in SHOWN.items()
        if name in figures
    ]
