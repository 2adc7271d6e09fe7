"""Test that files and folders are always complete or missing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boson_multimodal import whole_files
from boson_multimodal.whole_files import TEMPORARY_PREFIX, open_whole, whole_folder, write_whole

PROJECT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (b"old", b"a new one, and longer", b""):
        write_whole(path, content)
        assert path.read_bytes() == content and names(tmp_path) == ["a.json"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    write_whole(path, b"old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, bytes(80))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_stream_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    write_whole(path, b"old")
    with pytest.raises(ValueError, match="no more"), open_whole(path) as file:
        file.write(bytes(100_000))
        assert path.read_bytes() == b"old"
        raise ValueError("no more")
    assert path.read_bytes() == b"old" and names(tmp_path) == [path.name]
    with open_whole(path) as file:
        file.write(b"ne")
        file.write(b"w")
    assert path.read_bytes() == b"new" and names(tmp_path) == [path.name]


@pytest.mark.parametrize("last", [0, 1])
def test_two_writers_of_one_path_do_not_disturb_each_other(last: int, tmp_path: Path) -> None:
    """The process that ends last wins, and its file is not mixed with another."""
    path = tmp_path / "config.json"
    writers = [open_whole(path), open_whole(path)]
    files = [writer.__enter__() for writer in writers]
    for letter in b"abc":
        for number, file in enumerate(files):
            file.write(bytes([letter]) * (number + 1))
    writers[1 - last].__exit__(None, None, None)
    assert path.read_bytes() == [b"abc", b"aabbcc"][1 - last]
    writers[last].__exit__(None, None, None)
    assert path.read_bytes() == [b"abc", b"aabbcc"][last] and names(tmp_path) == ["config.json"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_durable_file_is_on_disk_before_it_is_renamed_and_its_name_after(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, fsync, replace = [], os.fsync, os.replace
    path = tmp_path / "run.json"

    def recorded_fsync(descriptor: int) -> None:
        is_folder = os.path.samestat(os.fstat(descriptor), tmp_path.stat())
        events.append("folder" if is_folder else f"file of {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def recorded_replace(old: Path, new: Path) -> None:
        events.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_whole(path, b"12345", durable=durable)
    assert events == (["file of 5", "rename", "folder"] if durable else ["rename"])


def test_a_killed_writer_leaves_the_old_file_and_a_file_with_the_prefix(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_whole(path, b"old")
    code = (
        "import os, signal; from pathlib import Path; from boson_multimodal.whole_files import open_whole\n"
        f"with open_whole(Path({str(path)!r})) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (left,) = tmp_path.glob(f"{TEMPORARY_PREFIX}*")
    assert left.read_bytes() == b"half"
    assert list(tmp_path.glob("*.wav")) == [path], "the incomplete file does not look like a clip"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for output in (tmp_path / "out", Path("relative")):
        with pytest.raises(KeyboardInterrupt), whole_folder(output) as temporary:
            (temporary / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        assert names(tmp_path) == []
        with whole_folder(output) as temporary:
            (temporary / "model.safetensors").write_bytes(b"all")
            assert not output.exists() and temporary.parent == tmp_path
        assert names(tmp_path) == [output.name] and names(output) == ["model.safetensors"]
        (output / "model.safetensors").unlink()
        output.rmdir()


def test_the_temporary_folder_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY_PREFIX}out").mkdir()
    (tmp_path / f"{TEMPORARY_PREFIX}out" / "half").touch()
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as temporary:
        assert names(temporary) == []
        (temporary / "whole").touch()
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["whole"]


def test_a_folder_with_content_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OSError), whole_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["mine"]


def test_sync_takes_files_and_folders(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"content")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    whole_files.sync(tmp_path / "a")
    whole_files.sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        whole_files.sync(tmp_path / "b")
    assert before is None or len(os.listdir("/proc/self/fd")) == before, "each is closed again"
