"""Checks at the start of a run that its processes belong together, on one machine or on several.

Each process of a run must compute the same thing from the same data. What differs is found here, before any weight is
loaded, and named with the rank and the machine, instead of a hang or a wrong result later.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.errors import raise_if_any
from boson_multimodal.flags import facts_of
from boson_multimodal.machines import machine_name
from boson_multimodal.process_group import Ranks
from lora_config import ADAPTER_FILE
from voice_cloning.run.data import RunData
from voice_cloning.training.config import DistributedTrainingConfig, flag_fields, read_recorded_flags
from voice_cloning.training.environment import environment
from voice_cloning.training.fingerprints import folder_fingerprint

SECONDS_APART = 60.0
"""How far the clocks of machines may be apart.

No number of a run depends on a clock. But logs of several machines cannot be read together if clocks disagree, and a
cache of codes on a shared disk takes a log for abandoned by its age. More than a minute means that nothing sets the
clock of a machine. It is more than a loaded machine needs to read its clock late.
"""
SOURCE_FOLDERS = ("arabic_text", "boson_multimodal", "voice_cloning")
HEADER_LENGTH_BYTES = 8
"""The length of the header stands at the beginning of a safetensors file."""


def check_ranks(ranks: Ranks, flags: Mapping[str, Any], project: Path) -> None:
    """Check program, versions, flags, clocks and GPUs of all processes.

    Args:
        ranks: the processes.
        flags: all flags. Those that name a place may differ (``FlagFacts.per_machine``): each machine has its own.
        project: the folder of the program.

    Raises:
        InputError: on every process, listing rank, machine and each value that differs from that of rank 0, or each
            process for which its machine has no GPU.
    """
    if not ranks.is_distributed:
        return
    require_equal(ranks, "the processes run other programs than", program_facts(project))
    compared = [name for name, found in flag_fields().items() if not facts_of(found).per_machine]
    require_equal(
        ranks, "the processes have other flags than", {f"--{name}": json.dumps(flags[name]) for name in compared}
    )
    ranks.wait_for_all()
    facts = machine_name(), ranks.local_rank, torch.cuda.device_count(), time.time()
    machines, local_ranks, gpus, clocks = zip(*ranks.gather(facts), strict=True)
    problems = gpu_problems(machines, local_ranks, gpus) + clock_problems(machines, clocks)
    raise_if_any("the machines of the processes do not fit together", problems)


def recorded_flags_of_main(config: DistributedTrainingConfig) -> dict[str, Any] | None:
    """Return the flags of the run that will be resumed, on every process. Only the main process reads its folder.

    Raises:
        InputError: on every process, if its ``run.json`` cannot be read.
    """
    if config.dry_run:
        return read_recorded_flags(config)
    ranks, recorded = Ranks.join(config.collective_timeout), None
    with ranks.failing_together():
        if ranks.is_main:
            recorded = read_recorded_flags(config)
    return ranks.broadcast_object(recorded)


def check_inputs(
    ranks: Ranks, config: DistributedTrainingConfig, dataset_config: ArabicVoiceCloningDatasetConfig
) -> None:
    """Check that all processes read the same files, before they divide the work on them.

    Raises:
        InputError: on every process, naming each flag whose content differs from that of rank 0.
    """
    if not ranks.is_distributed:
        return
    init_adapter = config.init_adapter and Path(config.init_adapter) / ADAPTER_FILE
    named = {
        "--data_path": config.data_path,
        "--eval_data_path": [config.eval_data_path],
        "--init_adapter": [init_adapter],
        "--codes": dataset_config.codes,
    }
    places = {flag: list(map(_resolved, filter(None, found))) for flag, found in named.items()}
    facts = {}
    if _reads_first(ranks, places):
        facts = {f"the content of {flag}": ", ".join(map(content_of, found)) for flag, found in places.items()}
    require_equal(ranks, "the processes read other data than", facts)


def check_data(
    ranks: Ranks, config: DistributedTrainingConfig, dataset_config: ArabicVoiceCloningDatasetConfig, data: RunData
) -> None:
    """Check that all processes have found the same model, codec, samples and clips.

    Raises:
        InputError: on every process, naming what differs from that of rank 0.
    """
    if not ranks.is_distributed:
        return
    extractor = data.feature_extractor and json.dumps(data.feature_extractor.to_dict(), sort_keys=True)
    facts: dict[str, str | None] = {
        "the model of --model_path": model_identity(data.model_folder),
        "the codec of --audio_tokenizer_path": data.codec.identity,
        "the feature extractor": extractor and hashlib.sha256(extractor.encode()).hexdigest()[:16],
    }
    datasets = {"--data_path": data.train_dataset, "--eval_data_path": data.eval_dataset}
    places = [dataset_config.code_cache_dir, *config.data_path, config.eval_data_path, *dataset_config.codes]
    if _reads_first(ranks, list(map(_resolved, filter(None, places)))):
        facts |= {f"samples and clips of {flag}": f.fingerprint() for flag, f in datasets.items() if f is not None}
    require_equal(ranks, "the processes have found another model or other data than", facts)


def require_equal(ranks: Ranks, heading: str, facts: Mapping[str, str | None]) -> None:
    """Check that a process knows nothing else than rank 0. What one of them does not know (None) is not compared.

    Raises:
        InputError: on every process, naming the ranks, their machine, and each fact that differs.
    """
    found = ranks.gather((machine_name(), dict(facts)))
    first_machine, wanted = found[0]
    differ: dict[tuple[str, str], list[int]] = {}
    for rank, (machine, own) in enumerate(found):
        for name in dict.fromkeys([*wanted, *own]):
            here, there = own.get(name), wanted.get(name)
            if None not in (here, there) and here != there:
                differ.setdefault((machine, f"{name} is {here}, and {there} on rank 0"), []).append(rank)
    problems = [f"{_ranks(numbers)} on {machine}: {problem}" for (machine, problem), numbers in differ.items()]
    raise_if_any(f"{heading} rank 0 on {first_machine}", problems)


def gpu_problems(machines: Sequence[str], local_ranks: Sequence[int], gpus: Sequence[int]) -> list[str]:
    """Return the processes for which their machine has no GPU, if any machine has one; arguments are by rank."""
    if not any(gpus):
        return []
    return [
        f"rank {rank} on {machine}: is process {local} of its machine, counted from 0, and the machine has {count} "
        "GPUs; start as many processes as GPUs (torchrun --nproc_per_node), or see why CUDA does not find the others"
        for rank, (machine, local, count) in enumerate(zip(machines, local_ranks, gpus, strict=True))
        if local >= count
    ]


def clock_problems(machines: Sequence[str], clocks: Sequence[float]) -> list[str]:
    """Return the processes whose clocks (seconds) are too far from that of rank 0; arguments are by rank."""
    return [
        f"rank {rank} on {machine}: its clock is {abs(clock - clocks[0]):.0f} s "
        f"{'ahead of' if clock > clocks[0] else 'behind'} that of rank 0 on {machines[0]}; at most {SECONDS_APART:g} s "
        "are allowed. Set the clocks (chrony, ntpd)"
        for rank, (machine, clock) in enumerate(zip(machines, clocks, strict=True))
        if abs(clock - clocks[0]) > SECONDS_APART
    ]


def program_facts(project: Path) -> dict[str, str | None]:
    """Return versions and commit of this program, a digest of its source, and the versions of its packages."""
    digest = hashlib.sha256()
    paths = [*project.glob("*.py"), *(path for name in SOURCE_FOLDERS for path in project.glob(f"{name}/**/*.py"))]
    for path in sorted(paths, key=lambda path: path.relative_to(project).as_posix()):
        digest.update(path.relative_to(project).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    found = environment(project)
    packages = found.pop("versions")
    return {**found, "the source of the program": digest.hexdigest()[:16], **packages}


def model_identity(folder: Path) -> str:
    """Return 16 hex digits of a model's configuration, tokenizer, and the names, sizes and headers of its weights."""
    digest = hashlib.sha256(folder_fingerprint(folder).encode())
    for path in sorted(folder.glob("tokenizer*.json")):
        digest.update(path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = file.read(HEADER_LENGTH_BYTES)
            digest.update(length + file.read(int.from_bytes(length, "little")))
    return digest.hexdigest()[:16]


def content_of(path: Path) -> str:
    """Return words for the content of a file; or for the names and sizes of the files in a folder."""
    if path.is_dir():
        sizes = [(p.relative_to(path).as_posix(), p.stat().st_size) for p in sorted(path.rglob("*")) if p.is_file()]
        return f"{hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]} ({len(sizes)} files)"
    if not path.is_file():
        return "not there"
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()[:16]} ({path.stat().st_size:,} bytes)"


def _resolved(place: str | Path) -> Path:
    return Path(place).expanduser().resolve()


def _reads_first(ranks: Ranks, places: Any) -> bool:
    """Return whether no lower rank of this machine reads the same places, and others do: reading them takes a while."""
    everywhere = ranks.gather((machine_name(), places))
    own = everywhere[ranks.rank]
    return any(found != own for found in everywhere) and everywhere.index(own) == ranks.rank


def _ranks(numbers: Sequence[int]) -> str:
    return f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {', '.join(map(str, numbers))}"
