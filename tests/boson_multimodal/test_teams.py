"""Processes that see one folder are a team, whether one machine or several see it."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from boson_multimodal import teams
from boson_multimodal.process_group import Ranks, leave_process_group
from boson_multimodal.teams import Team, team_that_shares
from tests.two_nodes import free_port

ITEMS = list(range(7))
MACHINES = ["first", "first", "second", "second"]


def places(path: Path) -> dict[str, tuple[list[Path], list[str], bool]]:
    """By name: the folder of each rank, its machine, and whether the ranks write into it."""
    one, other = [path / "one"] * 4, [path / "one", path / "other"] * 2
    return {
        "one machine": (one, ["first"] * 4, True),
        "a shared disk": (one, MACHINES, True),
        "a shared disk that nobody writes to": (one, MACHINES, False),
        "a folder on each machine": (sorted(other), MACHINES, True),
        "folders on one machine": (other, ["first"] * 4, True),
        "a folder of its own": ([path / f"own{rank}" for rank in range(4)], MACHINES, True),
    }


TEAMS = {
    "one machine": [[0, 1, 2, 3]],
    "a shared disk": [[0, 1, 2, 3]],
    "a shared disk that nobody writes to": [[0, 1], [2, 3]],
    "a folder on each machine": [[0, 1], [2, 3]],
    "folders on one machine": [[0, 2], [1, 3]],
    "a folder of its own": [[0], [1], [2], [3]],
}


def on_machine(machine: str) -> Callable[[Path], tuple[str, int, int]]:
    return lambda path: (machine, path.stat().st_dev, path.stat().st_ino)


def what_a_rank_finds(port: int, rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "4"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    Ranks.join()
    found = {}
    for name, (folders, machines, is_written) in places(folder).items():
        teams._place = on_machine(machines[rank])
        team = team_that_shares(folders[rank], is_written)
        team.wait_for_all()
        found[name] = team.rank, team.size, team.all_results([(item, rank) for item in team.share(ITEMS)])
    torch.save(found, folder / f"{rank}.pt")
    leave_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, tuple]]]:
    """The folder, and what each of four ranks found in each case."""
    folder = tmp_path_factory.mktemp("teams")
    for name in ("one", "other", *(f"own{rank}" for rank in range(4))):
        (folder / name).mkdir()
    context, port = multiprocessing.get_context("forkserver"), free_port()
    context.set_forkserver_preload(["boson_multimodal.teams", __name__])
    processes = [context.Process(target=what_a_rank_finds, args=(port, rank, folder)) for rank in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(4)]


@pytest.mark.parametrize("name", TEAMS)
def test_each_team_does_all_of_the_work(name: str, found: tuple[Path, list[dict[str, tuple]]]) -> None:
    for team in TEAMS[name]:
        for number, rank in enumerate(team):
            assert found[1][rank][name] == (number, len(team), [(item, team[item % len(team)]) for item in ITEMS])


def test_no_file_is_left(found: tuple[Path, list[dict[str, tuple]]]) -> None:
    assert not [path for path in found[0].rglob("*") if path.suffix == ".tmp"]


def test_a_single_process_is_a_team(tmp_path: Path) -> None:
    team = team_that_shares(tmp_path, is_written=True)
    assert team == Team() and team.share(ITEMS) == ITEMS and team.all_results(ITEMS) == ITEMS
    assert not list(tmp_path.iterdir())
