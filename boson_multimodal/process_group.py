"""Divide work among the processes that torchrun starts. A single process does all the work."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from boson_multimodal.errors import InputError

Value = TypeVar("Value")

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""How long a process waits for the others. One process may have far more audio to check or encode."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of this process, and operations over all ranks. In a single process the operations do nothing.

    Attributes:
        local_rank: the rank on this machine; -1 for a single process.
        rank: the global rank.
        world_size: the number of processes.
    """

    local_rank: int = -1
    rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls) -> "Ranks":
        """Join the process group if torchrun started this process (see :func:`join_process_group`)."""
        local_rank = join_process_group()
        return cls() if local_rank < 0 else cls(local_rank, dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are other processes."""
        return self.world_size > 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all ranks, and return it. Shape and type must be equal on all ranks."""
        if self.is_distributed:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        if not self.is_distributed:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def broadcast(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the main process. Shape and type must be equal on all ranks."""
        if self.is_distributed:
            dist.broadcast(tensor, src=0)

    def broadcast_object(self, value: Value) -> Value:
        """Return the value of the main process. The values of other processes are ignored. It must be picklable."""
        if not self.is_distributed:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Run a block that only some ranks may fail in, such as one that writes files. All ranks must enter it.

        Raises:
            InputError: on every rank, if the block raised one on any rank.
        """
        problem = None
        try:
            yield
        except InputError as error:
            problem = error
        if not self.any(problem is not None):
            return
        messages = self.gather(None if problem is None else str(problem))
        raise problem or InputError(next(message for message in messages if message is not None))

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in the order of ranks. The values must be picklable."""
        values: list[Any] = [value]
        if self.is_distributed:
            values = [None] * self.world_size
            dist.all_gather_object(values, value)
        return values


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
