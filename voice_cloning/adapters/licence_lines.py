"""The lines of a model card about the licences of the training data."""

from collections.abc import Mapping
from typing import Any

LICENCES = "licences"
"""The field of a data set in ``run.json``: what the card beside the data named when the run was started."""


def licence_lines(data: Mapping[str, Any]) -> list[str]:
    """Return the lines about the licences of each file and folder that a run was trained on.

    Args:
        data: the field ``data`` of ``run.json``. It has no licences where none is known, as in earlier releases.
    """
    training = data.get("training")
    if training is None:
        return []
    sets = training.get("parts", [training])
    known = [f"- `{one['file']}`: {text}" for one in sets for text in one.get(LICENCES, [])]
    unknown = dict.fromkeys(f"`{one['file']}`" for one in sets if not one.get(LICENCES))
    lines = ["", "The licences of the training data may hold for this model too:", "", *known] if known else []
    if unknown:
        names = ", ".join(unknown)
        lines += [
            "",
            f"No licence is known of the training data {names}: no card beside them named one to the trainer.",
        ]
    return lines
