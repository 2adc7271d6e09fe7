"""Test ``Ranks``: a single process does not communicate, and two processes get the same results."""

import dataclasses
import multiprocessing
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from boson_multimodal import process_group
from boson_multimodal.errors import InputError, NamedError
from boson_multimodal.process_group import Ranks, leave_process_group, name_of_attempt


def test_a_single_process_does_not_communicate(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_reduce", "broadcast", "broadcast_object_list"):
        monkeypatch.setattr(dist, name, None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    ranks = Ranks.join()
    assert ranks == Ranks() == Ranks(local_rank=-1, rank=0, world_size=1)
    assert ranks.is_main and not ranks.is_distributed
    tensor, value = torch.tensor([1.0, 2.0]), {"any": "object"}
    ranks.sum(tensor)
    ranks.broadcast(tensor)
    assert tensor.tolist() == [1.0, 2.0]
    assert ranks.any(True) is True and ranks.any(False) is False
    assert ranks.broadcast_object(value) is value


def test_a_single_process_under_torchrun_does_not_communicate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_reduce", None)
    ranks = Ranks(local_rank=0)
    assert ranks.is_main and not ranks.is_distributed and ranks.any(True)


def test_ranks_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Ranks().rank = 1
    assert not Ranks(1, 1, 2).is_main and Ranks(1, 1, 2).is_distributed


def _message_of(ranks: Ranks, failing: list[int]) -> str | None:
    try:
        with ranks.failing_together():
            if ranks.rank in failing:
                raise InputError(f"rank {ranks.rank}")
    except InputError as error:
        return str(error)
    return None


def _what_a_rank_sees(port: int, rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    ranks = Ranks.join()
    sums, counts = torch.tensor([1.5, 10.0 + rank], dtype=torch.float64), torch.tensor([[2**40], [rank]])
    ranks.sum(sums)
    ranks.sum(counts)
    weights = torch.full((2, 3), float(rank + 1))
    ranks.broadcast(weights)
    seen = {
        "ranks": (ranks.local_rank, ranks.rank, ranks.world_size, ranks.is_main, ranks.is_distributed),
        "sums": sums,
        "counts": counts,
        "weights": weights,
        "any": [ranks.any(flag) for flag in (False, rank == 0, rank == 1, True)],
        "object": ranks.broadcast_object([Path("checkpoint-000120"), None] if rank == 0 else "not this"),
        "messages": [_message_of(ranks, failing) for failing in ([], [0], [1], [0, 1])],
    }
    torch.save(seen, folder / f"{rank}.pt")
    leave_process_group()


def test_two_ranks_agree(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_what_a_rank_sees, args=(port, rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    seen: list[dict[str, Any]] = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    assert [one["ranks"] for one in seen] == [(0, 0, 2, True, True), (1, 1, 2, False, True)]
    for one in seen:
        assert one["sums"].tolist() == [3.0, 21.0] and one["sums"].dtype == torch.float64
        assert one["counts"].tolist() == [[2**41], [1]]
        assert one["weights"].tolist() == [[1.0] * 3] * 2
        assert one["any"] == [False, True, True, True]
        assert one["object"] == [Path("checkpoint-000120"), None]
    assert seen[0]["messages"] == [None, "rank 0", "rank 1", "rank 0"]
    assert seen[1]["messages"] == [None, "rank 0", "rank 1", "rank 1"]


def test_a_single_process_fails_alone() -> None:
    assert _message_of(Ranks(), []) is None
    assert _message_of(Ranks(), [0]) == "rank 0"
    with pytest.raises(RuntimeError, match="other errors pass"), Ranks().failing_together():
        raise RuntimeError("other errors pass")


def names_of_attempt(store: dist.Store, late: int) -> list[str]:
    """The names that three ranks agree on, of which one comes late."""

    def join(rank: int) -> str:
        time.sleep(0.3 if rank == late else 0.0)
        return name_of_attempt(store, rank, 3)

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(join, range(3)))


def test_each_attempt_has_a_name_of_its_own_in_one_store() -> None:
    """torchrun keeps the store when it starts processes again: addresses of ended ones must not be found in it."""
    store = dist.HashStore()
    names = [names_of_attempt(store, late) for late in (0, 1, 2, 0)]
    assert all(len(set(of_attempt)) == 1 for of_attempt in names)
    assert len({of_attempt[0] for of_attempt in names}) == 4
    assert name_of_attempt(store, 0, 1) != name_of_attempt(store, 0, 1)


def test_a_rank_that_never_joins_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "JOIN_TIMEOUT", process_group.timedelta(seconds=0.2))
    with pytest.raises(NamedError, match="rank 0 has waited 0.2 s for rank 1, which has not joined it"):
        name_of_attempt(dist.HashStore(), 0, 2)
    with pytest.raises(NamedError, match="rank 2 has waited 0.2 s for rank 0, which has not joined it"):
        name_of_attempt(dist.HashStore(), 2, 3)
