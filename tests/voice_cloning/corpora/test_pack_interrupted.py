"""A packing may end at any moment, and several may run at once: the folder is in the end that of one whole packing."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from boson_multimodal.errors import InputError
from tests.forked import fork
from tests.interrupted_writes import InterruptedWrites
from tests.voice_cloning.corpora.encoded_clips import clips_and_records
from tests.voice_cloning.corpora.packed_data import contents, pack, prepared
from voice_cloning.corpora import pack as pack_module
from voice_cloning.corpora import packing, packing_jobs


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "RECORDS_OF_BLOCK", 2)
    monkeypatch.setattr(packing, "CLIPS_OF_SHARD", 3)


def child(work: Callable[[], object]) -> int:
    """Start ``work`` in a process that is a copy of this one; its exit status is 0 if it succeeds."""
    process = fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return process


def status_of(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_a_packing_that_ends_at_any_write_goes_on_to_the_same_folder(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips_and_records(tmp_path, 3)
    pack(demo, path, tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    writes, number = InterruptedWrites(monkeypatch), 0
    writes.watch("write_shard", packing_jobs)
    writes.watch("write_manifest", packing)
    for number in writes.each(lambda number: pack(demo, path, tmp_path / f"packed-{number}")):
        folder = tmp_path / f"packed-{number}"
        with pytest.raises(InputError, match="no manifest.json"):
            prepared(folder)
        pack(demo, path, folder)
        assert contents(folder) == wanted
    assert number == 9, "two blocks of two files, two shards of each kind, the manifest"


def test_a_packing_that_ended_after_its_manifest_is_tidied_by_the_next(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips_and_records(tmp_path, 3)
    pack(demo, path, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "remove_remains", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(demo, path, tmp_path / "packed")
    assert contents(tmp_path / "packed") != contents(tmp_path / "whole")
    assert pack(demo, path, tmp_path / "packed").was_there
    assert contents(tmp_path / "packed") == contents(tmp_path / "whole")


def killed_packings(demo: Path, folder: Path, times: int) -> None:
    """Pack in a process that is killed at a random moment, then to the end."""
    path = clips_and_records(folder, 8)
    pack(demo, path, folder / "whole")  # the clips are encoded now, and a packing takes the same time each time
    started = time.monotonic()
    assert status_of(child(lambda: pack(demo, path, folder / "again"))) == 0
    seconds = time.monotonic() - started
    wanted, moments, killed = contents(folder / "whole"), random.Random(0), 0
    for number in range(6 * times):  # a busy machine may let a process end before its moment
        place = folder / f"packed-{number}"
        process = child(lambda place=place: pack(demo, path, place))
        time.sleep(0.9 * moments.random() * seconds)
        os.kill(process, signal.SIGKILL)
        killed += status_of(process) == -signal.SIGKILL
        assert status_of(child(lambda place=place: pack(demo, path, place))) == 0
        assert contents(place) == wanted
        if killed == times:
            return
    pytest.fail(f"only {killed} processes were killed before they ended")


def test_a_killed_packing_goes_on_to_the_same_folder(demo: Path, tmp_path: Path) -> None:
    killed_packings(demo, tmp_path, 5)


@pytest.mark.slow
def test_twenty_killed_packings_go_on_to_the_same_folder(demo: Path, tmp_path: Path) -> None:
    killed_packings(demo, tmp_path, 20)


def test_packings_at_once_give_one_folder(demo: Path, tmp_path: Path) -> None:
    path = clips_and_records(tmp_path, 8)
    pack(demo, path, tmp_path / "whole")
    processes = [child(lambda: pack(demo, path, tmp_path / "packed")) for _ in range(3)]
    assert [status_of(process) for process in processes] == [0, 0, 0]
    assert contents(tmp_path / "packed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_processes_give_the_same_folder_as_one(demo: Path, tmp_path: Path) -> None:
    path = clips_and_records(tmp_path, 5)
    pack(demo, path, tmp_path / "one")
    pack(demo, path, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
