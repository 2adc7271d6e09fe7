"""The licences of the training data: for ``run.json``, and for the start of a run."""

from pathlib import Path
from typing import Any

from boson_multimodal.errors import InputError
from boson_multimodal.sample_dataset import SampleDataset
from voice_cloning.adapters.licence_lines import LICENCES
from voice_cloning.adapters.run_record import read_record
from voice_cloning.corpora.card_licences import has_card, licences_beside
from voice_cloning.training.checkpoints import RUN_FILE


def summary_with_licences(dataset: SampleDataset, train_data: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of the training data, with the licences that the cards beside file and folder name now.

    Where no card is any more, those stay that the record of the resumed run has. Data without a known licence have no
    such field.

    Args:
        dataset: the training data.
        train_data: what the identity of the run says about them.
        flags: all flags, which say what is resumed.
    """
    summary, texts = dataset.summary(), []
    resumed = _resumed(flags)
    earlier = {} if resumed is None else _earlier_licences(resumed / RUN_FILE, train_data)
    for number, part in enumerate(dataset.parts):
        now = [licence.text for licence in licences_beside(part.data_path)]
        texts.append(now if has_card(part.data_path) else earlier.get(number, []))
    found = [{LICENCES: own} if own else {} for own in texts]
    if "parts" not in summary:
        return summary | found[0]
    return summary | {"parts": [one | own for one, own in zip(summary["parts"], found, strict=True)]}


def _resumed(flags: dict[str, Any]) -> Path | None:
    """Return the folder of the run, or the checkpoint, that may be resumed; None for a new run."""
    if flags["resume"] not in ("auto", "none"):
        return Path(flags["resume"])
    return None if flags["resume"] == "none" or flags["overwrite"] else Path(flags["output_dir"])


def _earlier_licences(record: Path, train_data: dict[str, Any]) -> dict[int, list[str]]:
    """Return the number of each part -> its licences in the record of a run with the same training data."""
    try:
        run = read_record(record)
    except InputError:  # none is there, or it is damaged, which the opening of the folder says
        return {}
    training = run.get("data", {}).get("training")
    if training is None or run.get("identity", {}).get("train_data") != train_data:
        return {}
    return {number: part.get(LICENCES, []) for number, part in enumerate(training.get("parts", [training]))}


def commercial_use_lines(dataset: SampleDataset) -> list[str]:
    """Return one line that names the training data whose licence forbids commercial use; none if there are none."""
    forbidding = [
        f"{part.data_path} ({licence.text})"
        for part in dataset.parts
        for licence in licences_beside(part.data_path)
        if licence.forbids_commercial_use
    ]
    if not forbidding:
        return []
    return [f"licences of training data forbid commercial use, maybe also of the adapter: {'; '.join(forbidding)}"]
