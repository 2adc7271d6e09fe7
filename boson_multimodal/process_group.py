"""Work that the processes of torchrun share; a process by itself does all of it."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""How long a process waits for the others: one may have far more audio to check or encode."""


def join_process_group() -> int:
    """Join the process group if torchrun started us. Returns this process's number on its machine, or -1."""
    local_rank = int(os.environ.get("LOCAL_RANK", -1))
    if local_rank >= 0:
        # gloo carries what the host needs at once (counts, objects), so that it never waits for a GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    return local_rank


def leave_process_group() -> None:
    """Leave it when all is done: NCCL complains of those who just end."""
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(local_rank: int) -> torch.device:
    """One GPU per process, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", max(local_rank, 0))
    torch.cuda.set_device(device)
    return device


def rank() -> int:
    """This process's number among all."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(items: Sequence[Any]) -> Sequence[Any]:
    """What this process does of all."""
    return items[rank() :: dist.get_world_size()] if dist.is_initialized() else items


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def all_results(results: list[Any]) -> list[Any]:
    """What all processes made of their :func:`share`, in the order of the items."""
    if not dist.is_initialized():
        return results
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, results)
    return interleave(gathered)


def interleave(shares: list[list[Any]]) -> list[Any]:
    """Undo ``items[rank::world_size]``: the items in their first order."""
    return [share[i] for i in range(len(shares[0])) for share in shares if i < len(share)]
