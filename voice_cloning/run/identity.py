"""Build the record of a run (``run.json``): the identity, which determines the result, and further details."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from boson_multimodal.flags import facts_of, value_before
from lora_config import ADAPTER_FILE
from voice_cloning.run.data import RunData
from voice_cloning.training.config import flag_fields
from voice_cloning.training.environment import environment
from voice_cloning.training.run_directory import file_fingerprint, folder_fingerprint


def flag_values(configs: Sequence[Any]) -> dict[str, Any]:
    """Return the value of every flag by name."""
    return {name: value for config in configs for name, value in asdict(config).items()}


def flags_before() -> dict[str, Any]:
    """Return, for every flag, the value that describes releases without it."""
    return {name: value_before(flag_field) for name, flag_field in flag_fields().items()}


def run_identity(flags: dict[str, Any], data: RunData, world_size: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return the identity of a run. Two runs with equal identity compute the same numbers.

    Args:
        flags: all flags. Fingerprints of data and checkpoints replace the flags that name them.
        data: the data and the model's folder.
        world_size: number of processes.
        dtype: type of the frozen weights.
    """
    init_adapter = flags["init_adapter"]
    identity: dict[str, Any] = {
        "flags": {name: flags[name] for name, found in flag_fields().items() if facts_of(found).in_identity},
        "world_size": world_size,
        "torch_dtype": str(dtype),
        "model": folder_fingerprint(data.model_folder),
        "init_adapter": init_adapter and file_fingerprint(Path(init_adapter) / ADAPTER_FILE),
    }
    if data.feature_extractor is not None:
        identity["feature_extractor"] = data.feature_extractor.to_dict()
    for name, dataset in (("train_data", data.train_dataset), ("eval_data", data.eval_dataset)):
        identity[name] = dataset and {"samples": len(dataset), "fingerprint": dataset.fingerprint()}
    return identity


def run_details(flags: dict[str, Any], data: RunData, project: Path) -> dict[str, Any]:
    """Return the rest of ``run.json`` after the identity: flags, data, versions and the commit of ``project``."""
    datasets = {"training": data.train_dataset, "evaluation": data.eval_dataset}
    summaries = {part: dataset and dataset.summary() for part, dataset in datasets.items()}
    return {"flags": flags, "data": summaries, **environment(project)}
