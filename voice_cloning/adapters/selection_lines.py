"""What a model card says of the choice among the checkpoints of a run (``selection.json``)."""

import json
from pathlib import Path
from typing import Any

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


def read_selection(run_folder: Path, checkpoint_name: str) -> dict[str, Any] | None:
    """Return what the choice of a run says of one of its checkpoints; None if there is none, or if it is damaged.

    A run that saves must not end because of this file, which another command wrote.
    """
    path = run_folder / SELECTION_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
        names = {of["folder"]: name for name, of in found["checkpoints"].items()}
        if checkpoint_name not in names:
            return None
        name, retention = names[checkpoint_name], found["retention"]
        return {
            "chosen": found["chosen"] == name,
            "of": len(names),
            "set": found["set"]["name"],
            "sentences": found["set"]["sentences"],
            "recogniser": found["recogniser"],
            "speaker_model": found["speaker_model"],
            "decided_by": next(c["rule"] for c in found["comparisons"] if c["candidate"] == name),
            "figures": {n: f for n, f in found["checkpoints"][name]["figures"].items() if n in SHOWN},
            "retention": retention
            and {
                "set": retention["set"]["name"],
                "differences": {n: f for n, f in retention["differences"][name].items() if n in SHOWN},
            },
        }
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def selection_lines(selection: dict[str, Any] | None) -> list[str]:
    """Return the lines of a card about :func:`read_selection`."""
    if not selection:
        return []
    verdict = "chosen as the best" if selection["chosen"] else "not chosen"
    lines = [
        f"- {verdict} of {selection['of']} checkpoints by its speech on `{selection['set']}` "
        f"({selection['sentences']} sentences); decided by: {selection['decided_by']}"
    ]
    judges = [f"{n}: `{selection[k]}`" for n, k in (("recogniser", "recogniser"), ("speaker model", "speaker_model"))]
    lines += _figure_lines("", selection["figures"])
    if selection["retention"]:
        of_set = f"change against the base on `{selection['retention']['set']}`: "
        lines += _figure_lines(of_set, selection["retention"]["differences"])
    return [*lines, f"- judged by {', '.join(judges)}; intervals are of 95 %"]


def _figure_lines(prefix: str, figures: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"- {prefix}{title} {figures[name]['value']:.3f} ({figures[name]['low']:.3f} to {figures[name]['high']:.3f})"
        for name, title in SHOWN.items()
        if name in figures
    ]
