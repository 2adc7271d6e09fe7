"""Work that the processes of torchrun share; a process by itself does all of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from boson_multimodal.device import pick_device  # noqa: F401 - its old place, which the trainer still imports from

Value = TypeVar("Value")

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""How long a process waits for the others: one may have far more audio to check or encode."""
SECONDS_BEFORE_OTHER_RANKS_REPORT = 3.0
"""How long the other ranks wait before they report an error.

For a wrong input all ranks fail alike: torchrun ends the others in this time, and the message appears once.
"""


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started. A process by itself returns from each method at once.

    Attributes:
        local_rank: its number on its machine; -1 for a process by itself.
        rank: its number among all.
        world_size: how many there are.
    """

    local_rank: int = -1
    rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls) -> "Ranks":
        """Join the process group if torchrun started us: see :func:`join_process_group`."""
        local_rank = join_process_group()
        return cls() if local_rank < 0 else cls(local_rank, dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages for all."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are other processes."""
        return self.world_size > 1

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks; it has the same shape and type on each."""
        if self.is_distributed:
            dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if not self.is_distributed:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def broadcast(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the main process; it has the same shape and type on each rank."""
        if self.is_distributed:
            dist.broadcast(tensor, src=0)

    def broadcast_object(self, value: Value) -> Value:
        """Return the main process's value, whatever this process gives; it must be picklable."""
        if not self.is_distributed:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


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
