"""Read the settings for prompts from the ``run.json`` of an adapter or of a merged model."""

import json
from pathlib import Path
from typing import Any

from arabic_voice_cloning_dataset import parse_record, read_json_records
from boson_multimodal.cloning_example import has_as_written_turns
from boson_multimodal.errors import InputError
from boson_multimodal.flags import value_before
from voice_cloning.training.config import flag_fields
from voice_cloning.training.run_directory import RUN_FILE

STYLE_WITHOUT_RUN = "voice_clone"
"""The prompt style of a model without ``run.json``: the one that the release was shown to clone voices with."""


def style_of_adapter(folder: Path) -> str:
    """Return the prompt style with which an adapter, or the adapter in a merged model, was trained.

    Raises:
        InputError: if ``run.json`` is not one of the trainer's.
    """
    flags = _flags_of_run(folder, "prompt_style")
    return STYLE_WITHOUT_RUN if flags is None else flags["prompt_style"]


def normalisation_of_adapter(folder: Path) -> str:
    """Return the text normalisation with which an adapter was trained; ``none`` for runs older than that flag.

    Raises:
        InputError: if ``run.json`` is not one of the trainer's.
    """
    of_older_runs = value_before(flag_fields()["text_normalisation"])
    return (_flags_of_run(folder, None) or {}).get("text_normalisation", of_older_runs)


def _flags_of_run(folder: Path, needed: str | None) -> dict[str, Any] | None:
    """Return the flags in the ``run.json`` of a folder; None if there is no such file."""
    if not (folder / RUN_FILE).is_file():
        return None
    field = "flags" + (f".{needed}" if needed else "")
    try:
        flags = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["flags"]
        return flags if needed is None else {**flags, needed: flags[needed]}
    except (ValueError, KeyError, TypeError) as error:
        advice = f"give --{needed or 'text_normalisation'}"
        raise InputError(f"{folder / RUN_FILE}: does not have {field} ({error}); {advice}") from error


def turns_warning(adapter: Path | None) -> str | None:
    """Return a warning if an adapter was trained on other turns than those of prompt style ``as_written``, else None.

    The first record of the training data is compared. If the data no longer exist, there is no warning.
    """
    if adapter is None or not (adapter / RUN_FILE).is_file():
        return None
    run = json.loads((adapter / RUN_FILE).read_text(encoding="utf-8"))
    path = Path(run.get("flags", {}).get("data_path", ""))
    if not path.is_file():
        return None
    sample, _ = parse_record(read_json_records(path)[0], "as_written")
    if sample is None or has_as_written_turns(sample):
        return None
    return (
        f"{path}, the training data of the adapter, has other turns than the prompts for a text; give the texts as "
        "ChatML records in a manifest to use the turns of the training data"
    )
