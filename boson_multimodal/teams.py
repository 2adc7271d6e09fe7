"""Processes that see the same folder are a team: they divide the work whose results lie in it.

On one machine, and on several with a shared disk, all processes are one team. Where each machine has a folder of its
own, each machine's processes are a team, and each team does all of the work for its own folder.
"""

import socket
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed as dist

from boson_multimodal.process_group import Ranks, interleave
from boson_multimodal.rank_watch import FOREVER

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Team:
    """This process among those of its team.

    Attributes:
        rank, size: its number in the team, and the number of processes of the team.
        group: a gloo group of the team's processes; None if it has one process.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """Return the items that this process works on: every ``size``-th, from its number on."""
        return items[self.rank :: self.size]

    def all_results(self, results: list[Any]) -> list[Any]:
        """Collect the results that each process computed for its :meth:`share`; return them in the order of items."""
        if self.group is None:
            return results
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, results, group=self.group)
        return interleave(gathered)

    def wait_for_all(self) -> None:
        """Wait until all processes of the team have come, without a time limit (see ``process_group.py``)."""
        if self.group is not None:
            dist.barrier(group=self.group)


def team_that_shares(path: Path, is_written: bool) -> Team:
    """Return this process among those that see the same file or folder. All processes must call this together.

    Args:
        path: a file or folder that exists.
        is_written: whether it is a folder into which the processes write. Then the folder itself tells whether
            machines share it; otherwise machines count as apart, which costs work but is never wrong.
    """
    ranks = Ranks.join() if dist.is_initialized() else Ranks()
    if not ranks.is_distributed:
        return Team()
    places = ranks.gather(_place(path))
    seen = [place == places[ranks.rank] for place in places]
    if is_written and len(set(places)) > 1:
        seen = _seen_by_files(path, places, ranks)
    members = [rank for rank, others in enumerate(ranks.gather(seen)) if others == seen]
    if len(members) == 1:
        return Team()
    group = dist.new_group(members, timeout=FOREVER, backend="gloo", use_local_synchronization=True)
    return Team(members.index(ranks.rank), len(members), group)


def _place(path: Path) -> tuple[str, int, int]:
    """Return what is equal in two processes only if they see the same file or folder on the same machine."""
    machine = BOOT_ID.read_text() if BOOT_ID.exists() else socket.gethostname()
    found = path.stat()
    return machine, found.st_dev, found.st_ino


def _seen_by_files(folder: Path, places: Sequence[tuple[str, int, int]], ranks: Ranks) -> list[bool]:
    """Return for each rank whether it sees this process's folder: the first process of each place writes a file there.

    The files have the suffix of temporary files of a cache, which removes those of killed processes.
    """
    token = ranks.broadcast_object(uuid.uuid4().hex)
    files = [folder / f"{token}.{places.index(place)}.tmp" for place in places]
    own = files[ranks.rank]
    is_first = places.index(places[ranks.rank]) == ranks.rank
    if is_first:
        with suppress(OSError):  # a folder that cannot be written to counts as one of this machine alone
            own.touch()
    ranks.wait_for_all()
    seen = [file.exists() or place == places[ranks.rank] for file, place in zip(files, places, strict=True)]
    ranks.wait_for_all()
    if is_first:
        with suppress(OSError):
            own.unlink(missing_ok=True)
    return seen
