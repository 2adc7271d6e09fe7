"""The licences of the training data: for ``run.json``, and for the start of a run."""

from typing import Any

from boson_multimodal.sample_dataset import SampleDataset
from voice_cloning.adapters.licence_lines import LICENCES
from voice_cloning.corpora.card_licences import licences_beside


def summary_with_licences(dataset: SampleDataset) -> dict[str, Any]:
    """Return the summary of the training data, with the licences that the cards beside file and folder name now.

    Data without a known licence have no such field.
    """
    summary = dataset.summary()
    texts = [[licence.text for licence in licences_beside(part.data_path)] for part in dataset.parts]
    found = [{LICENCES: own} if own else {} for own in texts]
    if "parts" not in summary:
        return summary | found[0]
    return summary | {"parts": [one | own for one, own in zip(summary["parts"], found, strict=True)]}


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
