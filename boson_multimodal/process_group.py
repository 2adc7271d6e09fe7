"""Divide work among the processes that torchrun starts. A single process does all the work."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""How long a process waits for the others. One process may have far more audio to check or encode."""


def join_process_group() -> int:
    """Join the process group if torchrun started this process. Return the local rank, or -1 without torchrun."""
    local_rank = int(os.environ.get("LOCAL_RANK", -1))
    if local_rank >= 0:
        # gloo carries counts and objects, which the host needs at once, so that the host never waits for a GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    return local_rank


def leave_process_group() -> None:
    """Leave the process group at the end of the program. NCCL prints a warning if a process exits without this."""
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(local_rank: int) -> torch.device:
    """Return the GPU of this process, or the CPU if there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", max(local_rank, 0))
    torch.cuda.set_device(device)
    return device


def rank() -> int:
    """Return the global rank of this process (0 without a process group)."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(items: Sequence[Any]) -> Sequence[Any]:
    """Return the items that this process works on: every ``world_size``-th, from its rank on."""
    return items[rank() :: dist.get_world_size()] if dist.is_initialized() else items


def barrier() -> None:
    """Wait until all processes have reached this call."""
    if dist.is_initialized():
        dist.barrier()


def all_results(results: list[Any]) -> list[Any]:
    """Collect the results that each process computed for its :func:`share`; return them in the order of the items."""
    if not dist.is_initialized():
        return results
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, results)
    return interleave(gathered)


def interleave(shares: list[list[Any]]) -> list[Any]:
    """Return the items in their original order: the inverse of ``items[rank::world_size]``."""
    return [share[i] for i in range(len(shares[0])) for share in shares if i < len(share)]
