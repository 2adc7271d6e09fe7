"""Build the record of a run (``run.json``): the identity, which determines the result, and further details."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from boson_multimodal.flags import facts_of, value_before
from lora_config import ADAPTER_FILE
from voice_cloning.run.data import RunData
from voice_cloning.run.data_licences import summary_with_licences
from voice_cloning.training.config import flag_fields
from voice_cloning.training.environment import environment
from voice_cloning.training.fingerprints import differences, file_fingerprint, folder_fingerprint

ACCUMULATION = "gradient_accumulation_steps"


def flag_values(configs: Sequence[Any]) -> dict[str, Any]:
    """Return the value of every flag by name. One ``data_path`` is no list, as in all releases."""
    values = {name: value for config in configs for name, value in asdict(config).items()}
    first, *others = values["data_path"]
    return values if others else {**values, "data_path": first}


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


def differences_of_runs(was: dict[str, Any], now: dict[str, Any], allow_other_world_size: bool) -> list[str]:
    """Return what makes another run of two identities, as ``name: was X, is Y``.

    On another number of processes it is the same run if a step has the same number of micro-batches, or if
    ``allow_other_world_size`` is given.
    """
    if was.get("world_size") == now["world_size"]:
        return differences(was, now)
    other = differences(_without_division(was), _without_division(now))
    old, new = was.get("world_size"), now["world_size"]
    old_number, new_number = (found["flags"].get(ACCUMULATION) for found in (was, now))
    if type(old) is not int or type(old_number) is not int:
        return [f"world_size: was {old!r}, is {new}; flags.{ACCUMULATION}: was {old_number!r}, is {new_number}", *other]
    per_step = old * old_number
    if per_step == new * new_number or allow_other_world_size:
        return other
    return [
        f"world_size: was {old}, is {new}; flags.{ACCUMULATION}: was {old_number}, is {new_number}. A step had "
        f"{per_step} micro-batches and would have {new * new_number}: {_remedy(per_step, new)}, or give "
        "--allow_other_world_size, which goes on with steps of another size",
        *other,
    ]


def _remedy(per_step: int, world_size: int) -> str:
    """Return how steps of ``per_step`` micro-batches are kept."""
    if per_step % world_size == 0:
        return f"give --{ACCUMULATION} {per_step // world_size}"
    fitting = [str(number) for number in range(1, per_step + 1) if per_step % number == 0]
    either = " or ".join(filter(None, [", ".join(fitting[:-1]), fitting[-1]]))
    processes = "process" if per_step == 1 else "processes"
    return f"{world_size} processes cannot share {per_step}; start {either} {processes} with --{ACCUMULATION} to match"


def _without_division(identity: dict[str, Any]) -> dict[str, Any]:
    """Return an identity without what divides micro-batches into steps and among processes."""
    flags = {name: value for name, value in identity["flags"].items() if name != ACCUMULATION}
    return {name: value for name, value in {**identity, "flags": flags}.items() if name != "world_size"}


def run_details(flags: dict[str, Any], data: RunData, identity: dict[str, Any], project: Path) -> dict[str, Any]:
    """Return the rest of ``run.json`` after the identity: flags, data, versions and the commit of ``project``."""
    held_out = data.eval_dataset and data.eval_dataset.summary()
    summaries = {
        "training": summary_with_licences(data.train_dataset, identity["train_data"], flags),
        "evaluation": held_out,
    }
    return {"flags": flags, "data": summaries, **environment(project)}
