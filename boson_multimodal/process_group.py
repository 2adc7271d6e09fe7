"""Divide work among the processes that torchrun starts. A single process does all the work."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from boson_multimodal.errors import InputError, NamedError, raise_if_any
from boson_multimodal.rank_watch import RankWatch, end_process

Value = TypeVar("Value")

COLLECTIVE_MINUTES = 10.0
"""How long a process waits in a collective for processes that live. It does not hold for :func:`wait_for_all`."""
JOIN_TIMEOUT = timedelta(minutes=10)
"""How long the first process waits at the start for the others."""

POLL_SECONDS = 0.05

_watch: RankWatch | None = None
"""Watches over the other processes, from joining to leaving."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of this process, and operations over all ranks. In a single process the operations do nothing.

    Operations on tensors and flags end with an error if a process has not come to them within the time limit of
    :meth:`join`. Operations on objects wait first until all processes have come, as long as these live.

    Attributes:
        local_rank: the rank on this machine; -1 for a single process.
        rank: the global rank.
        world_size: the number of processes.
    """

    local_rank: int = -1
    rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls, minutes: float = COLLECTIVE_MINUTES) -> "Ranks":
        """Join the process group if torchrun started this process, unless it has joined already.

        Args:
            minutes: time limit of collectives (see :func:`join_process_group`).
        """
        if dist.is_initialized():
            return cls(int(os.environ["LOCAL_RANK"]), dist.get_rank(), dist.get_world_size())
        local_rank = join_process_group(minutes)
        return cls() if local_rank < 0 else cls(local_rank, dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are other processes."""
        return self.world_size > 1

    def wait_for_all(self) -> None:
        """Wait until all ranks have come, without a time limit (see :func:`wait_for_all`)."""
        if self.is_distributed:
            wait_for_all()

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all ranks, and return it. Shape and type must be equal on all ranks."""
        if self.is_distributed:
            with _naming_those_who_did_not_come():
                dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        if not self.is_distributed:
            return flag
        flags = torch.tensor(int(flag))
        with _naming_those_who_did_not_come():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def broadcast(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the main process. Shape and type must be equal on all ranks."""
        if self.is_distributed:
            with _naming_those_who_did_not_come():
                dist.broadcast(tensor, src=0)

    def broadcast_object(self, value: Value) -> Value:
        """Return the value of the main process. The values of other processes are ignored. It must be picklable."""
        if not self.is_distributed:
            return value
        values = [value]
        wait_for_all()
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
        self.wait_for_all()  # the block may have taken long on one of them, as on a slow disk
        if not self.any(problem is not None):
            return
        messages = self.gather(None if problem is None else str(problem))
        raise problem or InputError(next(message for message in messages if message is not None))

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in the order of ranks. The values must be picklable."""
        values: list[Any] = [value]
        if self.is_distributed:
            values = [None] * self.world_size
            wait_for_all()
            dist.all_gather_object(values, value)
        return values


def join_process_group(minutes: float = COLLECTIVE_MINUTES) -> int:
    """Join the process group if this is one of several processes. Return the local rank, or -1 if it is not.

    torchrun sets LOCAL_RANK, RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; another launcher must set them too. From
    then on, this process ends soon after any other process of the group has ended early (``rank_watch.py``).

    Args:
        minutes: how long a collective waits for processes that live.

    Raises:
        InputError: if a variable of the environment is missing or no number.
        NamedError: if the other processes do not come.
    """
    global _watch
    if os.environ.get("LOCAL_RANK", "-1") == "-1":
        return -1
    local_rank, world_size = _check_environment()
    # gloo carries counts and objects, which the host needs at once, so that the host never waits for a GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, _ = next(dist.rendezvous("env://", timeout=JOIN_TIMEOUT))
    except dist.DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise NamedError(
            f"the {world_size} processes have not met at {address} ({str(error).splitlines()[0]}); start all of them, "
            "with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE and each with a RANK of its own"
        ) from error
    store.set_timeout(JOIN_TIMEOUT)
    store = dist.PrefixStore(name_of_attempt(store, rank, world_size), store)
    timeout = timedelta(minutes=minutes)
    dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=world_size)
    if world_size > 1:
        _watch = RankWatch(store)
    return local_rank


def name_of_attempt(store: dist.Store, rank: int, world_size: int) -> str:
    """Return a name that all processes of this attempt have in common, and no earlier attempt had.

    torchrun keeps one store for all attempts (``--max-restarts``), and the addresses of ended processes are still in
    it. Launchers on several machines do not even count attempts alike. So rank 0 chooses a name and tells each other
    rank, in reply to a word that this rank has just made up; an old reply has another word.

    Raises:
        NamedError: if the other processes do not answer.
    """
    own, deadline = uuid.uuid4().hex, time.monotonic() + JOIN_TIMEOUT.total_seconds()
    if rank > 0:
        store.set(f"word/{rank}", own)
        while not (reply := _value(store, f"reply/{rank}")).startswith(own):
            _poll(rank, 0, deadline)
        name = reply.split()[1]
        store.set(f"taken/{rank}", name)
        return name
    replied = dict.fromkeys(range(1, world_size), "")  # the word of each rank to which the last reply went
    while replied:
        for other, word in list(replied.items()):
            if (new := _value(store, f"word/{other}")) != word:
                replied[other] = new
                store.set(f"reply/{other}", f"{new} {own}")
            if _value(store, f"taken/{other}") == own:
                del replied[other]
        if replied:
            _poll(rank, min(replied), deadline)
    return own


def _poll(rank: int, other: int, deadline: float) -> None:
    """Wait a moment for another rank. Raises ``NamedError`` after the deadline, in seconds of ``time.monotonic``."""
    if time.monotonic() > deadline:
        seconds = JOIN_TIMEOUT.total_seconds()
        raise NamedError(f"rank {rank} has waited {seconds:g} s for rank {other}, which has not joined it")
    time.sleep(POLL_SECONDS)


def _value(store: dist.Store, key: str) -> str:
    """Return the value of a key, or an empty text."""
    return store.get(key).decode() if store.check([key]) else ""


def _check_environment() -> tuple[int, int]:
    """Return the local rank and the number of processes, which the launcher gives.

    Raises:
        InputError: listing the variables that are missing or no number.
    """
    variables, problems = os.environ, []
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not variables.get(name, "").isdecimal():
            problems.append(f"{name} is {variables.get(name, 'missing')}; it must be a number")
    if not problems and int(variables["RANK"]) >= int(variables["WORLD_SIZE"]):
        problems.append(f"RANK is {variables['RANK']}; it must be less than WORLD_SIZE, {variables['WORLD_SIZE']}")
    if not variables.get("MASTER_ADDR"):
        problems.append("MASTER_ADDR is missing; it must be the name of the machine of rank 0")
    raise_if_any("LOCAL_RANK is set, so this is one of several processes; variables of the environment", problems)
    return int(variables["LOCAL_RANK"]), int(variables["WORLD_SIZE"])


def leave_process_group() -> None:
    """Leave the process group when the work is done, together with all other processes.

    Not after an error, because the other processes may never come here (:func:`end_after_error`). NCCL prints a warning
    if a process exits without this.
    """
    global _watch
    if not dist.is_initialized():
        return
    watch = _watch
    if watch is not None:
        wait_for_all()
        watch.dismiss()
        _watch = None
    dist.destroy_process_group()
    del watch  # not before, for the sake of the beats in hand


def end_after_error(error: BaseException, message: str, status: int, kind: str = "error") -> None:
    """End this process at once if it belongs to a process group; otherwise do nothing.

    The other processes end too. Of all processes that fail, the first prints its message.

    Args:
        error: the error.
        message: what is printed.
        status: the exit status, not 0.
        kind: printed before the message, with the rank, unless it is empty.
    """
    own_name = f"rank {rank()}" if _watch is None else _watch.name(rank())
    heading = f"{kind} on {own_name}: " if kind else ""
    if _watch is not None:
        _watch.end(error, heading, message, status)
    if dist.is_initialized():
        end_process(heading + message, status)


def rank() -> int:
    """Return the global rank of this process (0 without a process group)."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes (1 without a process group)."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Wait until all processes have reached this call, for hours if they work so long.

    If one of them ends or is stopped meanwhile, this process ends too (``rank_watch.py``).
    """
    if _watch is not None:
        _watch.wait_for_all()


@contextmanager
def _naming_those_who_did_not_come() -> Iterator[None]:
    """Run a collective.

    Raises:
        NamedError: if others have not come to it within the time limit. It names them.
    """
    try:
        yield
    except RuntimeError as error:  # of gloo; NCCL ends the process itself
        late = [] if _watch is None else _watch.ranks_that_did_not_come()
        if "Timed out" not in str(error) or not late:
            raise
        raise NamedError(
            f"{', '.join(late)} did not come to where the others wait, but is alive: something holds it up, such as a "
            "disk that does not answer. Look for the cause on its machine; or, if it only needs more time, give a "
            "larger --collective_timeout (minutes). The same command resumes from the newest checkpoint"
        ) from error


def interleave(shares: list[list[Any]]) -> list[Any]:
    """Return the items in their original order: the inverse of ``items[rank::world_size]``."""
    return [share[i] for i in range(len(shares[0])) for share in shares if i < len(share)]
