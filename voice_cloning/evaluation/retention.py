"""Measures, beside the target set, what the base could do before: other languages, other voices, its own prompts.

The systems of an evaluation speak a second set, in the folder ``retention`` of the evaluation. What matters is the
change against the base, with its interval.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError
from voice_cloning.evaluation.evaluation import EvaluationSettings
from voice_cloning.evaluation.report_page import PAGE_FILE

RETENTION_FOLDER = "retention"


def retention_settings(
    settings: EvaluationSettings, retention_set: Path, references: Path | None
) -> EvaluationSettings:
    """Return the settings of the evaluation on a retention set.

    Raises:
        InputError: if the base is not evaluated.
    """
    if not settings.systems.base:
        raise InputError(f"--retention {retention_set}: shows the change against the base; leave --no_base out")
    return replace(
        settings,
        # Folders of WAVs hold the clips of the target set alone.
        systems=replace(settings.systems, wavs=()),
        test_set=retention_set,
        references=references,
        output_dir=settings.output_dir / RETENTION_FOLDER,
        title=f"Retention: {retention_set.name}",
        select=None,
    )


def retention_part(report: dict[str, Any]) -> dict[str, Any]:
    """Return what the report of the target set holds of the report of the retention set."""
    return {
        "set": report["set"],
        "systems": report["systems"],
        "page": f"{RETENTION_FOLDER}/{PAGE_FILE}",
        "warnings": report["warnings"],
    }
