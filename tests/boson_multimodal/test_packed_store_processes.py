"""Test the packed store with several processes: kills at random moments, two writers, the rules of network shares."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from boson_multimodal.audio_processing.packed_store import ABANDONED_AFTER_SECONDS
from tests.boson_multimodal.packed_entries import files, key, make_older, open_store, payload
from tests.training_runs import PROJECT

WRITER = """
import sys
from pathlib import Path
from boson_multimodal.audio_processing import packed_store
from tests.boson_multimodal.packed_entries import key, open_store, payload
packed_store.LOG_BYTES = 4000
store = open_store(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 100_000):
    store.write(key(number), payload(number))
    print(number, flush=True)
    if number % 40 == 39:
        store.compact()
"""
"""It writes, makes packs and joins them until it is killed, and prints the number of each entry that it has written."""


class Writer:
    """A process that runs WRITER. It is killed at the end of a ``with`` block; ``written`` then holds the numbers."""

    def __init__(self, folder: Path, start: int) -> None:
        command = [sys.executable, "-c", WRITER, str(folder), str(start)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT)
        self.lines: list[bytes] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.lines += self.process.stdout.readlines()
        assert self.process.wait(60) == -signal.SIGKILL
        self.written = [int(line) for line in self.lines if line.endswith(b"\n")]

    def wait_for(self, entries: int) -> None:
        """Wait until the process has written some more entries."""
        self.lines += [self.process.stdout.readline() for _ in range(entries)]


def kill_while_writing(folder: Path, kills: int, at_once: int) -> None:
    """Kill some processes that write, pack and join in one folder. Every entry that they reported must be present.

    With each kill, a reader that has been open all the time looks for the entries too.
    """
    generator, written, reader = random.Random(7), [], open_store(folder)
    for start in range(0, kills * 100_000, at_once * 100_000):
        with ExitStack() as stack:
            writers = [stack.enter_context(Writer(folder, start + n * 100_000)) for n in range(at_once)]
            for writer in writers:
                writer.wait_for(generator.randrange(1, 200))
            time.sleep(generator.uniform(0, 0.05))
        written += [number for writer in writers for number in writer.written]
        reader.refresh()
        for store in (reader, open_store(folder)):
            assert all(store.read(key(number)) == payload(number) for number in written)
    assert len(written) > kills
    for path in [*folder.glob("*.log"), *folder.glob("*.tmp")]:
        make_older(path, ABANDONED_AFTER_SECONDS + 60)
    last = open_store(folder)
    last.compact()
    assert files(last) == [".pack"] and last.sizes()[1] >= len(written)
    assert all(last.read(key(number)) == payload(number) for number in written)


@pytest.mark.parametrize("at_once", [1, 2])
def test_writers_that_are_killed_lose_nothing(at_once: int, tmp_path: Path) -> None:
    kill_while_writing(tmp_path, 4, at_once)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2])
def test_writers_that_are_killed_twenty_times_lose_nothing(at_once: int, tmp_path: Path) -> None:
    kill_while_writing(tmp_path, 20, at_once)


def test_a_reader_sees_what_a_running_process_appends(tmp_path: Path) -> None:
    """Whatever the process has reported can be read after a refresh, while it appends, packs and joins."""
    reader = open_store(tmp_path)
    with Writer(tmp_path, 0) as writer:
        for _ in range(20):
            writer.wait_for(17)
            reader.refresh()
            assert all(reader.read(key(int(line))) == payload(int(line)) for line in writer.lines)


AUDITED = """
import json, os, sys, time
from pathlib import Path
from boson_multimodal.audio_processing import packed_store
from tests.boson_multimodal.packed_entries import holds, key, make_older, open_store, payload
folder, events = Path(sys.argv[1]), []
def audit(event, arguments):
    if event.startswith(("fcntl", "mmap", "os.", "open", "shutil")):
        held = [str(a) if isinstance(a, (str, os.PathLike)) else a for a in arguments]
        exists = event == "os.rename" and os.path.lexists(held[1])
        events.append((event, [a if isinstance(a, (str, int)) else None for a in held], exists))
packed_store.LOG_BYTES = 4000
open_store(folder / "first")
sys.addaudithook(audit)
stores = [open_store(folder / "store") for _ in range(3)]
for number in range(300):
    stores[number % 2].write(key(number), payload(number))
    if number % 100 == 99:
        stores[number // 100 % 2].compact()
for log in (folder / "store").glob("*.log"):
    make_older(log, packed_store.ABANDONED_AFTER_SECONDS + 60)
stores[2].refresh()
stores[2].compact()
assert all(holds(stores[2], range(300)))
kept, events = list(events), []
print(json.dumps(kept))
"""


def test_no_file_is_locked_mapped_or_changed_in_place(tmp_path: Path) -> None:
    """What Python reports of its calls: each written file is new, and no rename replaces a file."""
    result = subprocess.run(
        [sys.executable, "-c", AUDITED, str(tmp_path)], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    place, events = str(tmp_path / "store"), json.loads(result.stdout)
    opened = [found for event, found, _ in events if event == "open" and str(found[0]).startswith(place)]
    written = [found for found in opened if found[2] & os.O_ACCMODE != os.O_RDONLY]
    assert len(opened) > 20 and len(written) > 5
    assert all(found[2] & os.O_EXCL and found[2] & os.O_CREAT for found in written)
    assert len({found[0] for found in written}) == len(written)
    renames = [(found, replaces) for event, found, replaces in events if event == "os.rename"]
    assert len(renames) > 5 and not any(replaces for _, replaces in renames)
    assert {_suffixes(found) for found, _ in renames} == {(".log", ".pack"), (".tmp", ".pack")}
    others = {event for event, _, _ in events} - {"open", "os.rename", "os.mkdir", "os.remove", "os.scandir"}
    assert others <= {"os.listdir", "os.utime"}, others  # the test itself makes logs older


def _suffixes(paths: list[Any]) -> tuple[str, ...]:
    return tuple(os.path.splitext(path)[1] for path in paths[:2])
