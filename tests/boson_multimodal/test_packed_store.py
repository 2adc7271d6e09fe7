"""Test the packed store: its bytes, and that kills, packing, truncation and damage never give wrong entries."""

import errno
import os
import random
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boson_multimodal.audio_processing import packed_store
from boson_multimodal.audio_processing.packed_store import ABANDONED_AFTER_SECONDS, IDLE_SECONDS
from tests.boson_multimodal.packed_entries import files, filled, holds, key, make_older, open_store, payload
from tests.chatml_files import make_cache


def test_ten_thousand_samples_come_back_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples have 1 to 750 frames (30 s). They are read from the log, from packs, and from the joined pack."""
    monkeypatch.setattr(packed_store, "LOG_BYTES", 8 << 20)
    generator = np.random.default_rng(0)
    samples = {
        random.Random(i).randbytes(32).hex(): torch.from_numpy(generator.integers(0, 1024, (8, int(frames))))
        for i, frames in enumerate(generator.integers(1, 751, 10_000))
    }
    cache = make_cache(tmp_path)
    for name, codes in samples.items():
        cache.write(name, codes)
    assert len(files(cache.store)) == 8 and files(cache.store)[0] == ".log"
    for reader in (cache, make_cache(tmp_path)):
        assert all(torch.equal(reader.read(name), codes) for name, codes in samples.items())
    cache.compact()
    packed = make_cache(tmp_path)
    assert packed.store.sizes()[:2] == (1, 10_000) and files(packed.store) == [".pack"]
    assert all(torch.equal(packed.read(name), codes) for name, codes in samples.items())
    assert packed.read("00" * 32) is None


def test_the_bytes_are_those_of_the_description(tmp_path: Path) -> None:
    """The test reads the file only with the description in the module's docstring."""
    (path,) = filled(tmp_path, range(50)).folder.iterdir()
    content = path.read_bytes()
    magic, start, count, crc = struct.unpack("<8sQQI", content[-28:])
    assert (magic, count, crc) == (b"HAindex1", 50, zlib.crc32(content[-28:-4]))
    assert start + 44 * count + 28 == len(content)
    records = [struct.unpack_from("<32sQI", content, start + 44 * i) for i in range(count)]
    assert [record[0] for record in records] == sorted(key(number) for number in range(50))
    wanted = {key(number): payload(number) for number in range(50)}
    assert sum(48 + record[2] for record in records) == start
    for name, offset, length in records:
        magic, found, size, payload_crc, crc = struct.unpack_from("<4s32sIII", content, offset)
        assert (magic, found, size) == (b"HAe1", name, length)
        assert crc == zlib.crc32(content[offset : offset + 44])
        assert content[offset + 48 : offset + 48 + length] == wanted[name]
        assert payload_crc == zlib.crc32(wanted[name])


def test_an_incomplete_last_entry_is_ignored(tmp_path: Path) -> None:
    """The log is cut at each byte of its last entry."""
    writer = open_store(tmp_path / "whole")
    for number in range(3):
        writer.write(key(number), payload(number))
    (log,) = writer.folder.glob("*.log")
    content = log.read_bytes()
    last = 48 + len(payload(2))
    for cut in range(1, last + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "a.log").write_bytes(content[:-cut])
        assert holds(open_store(folder), range(3)) == [True, True, False]


def test_a_log_without_the_rest_of_its_index_is_read_as_a_log(tmp_path: Path) -> None:
    """The process was killed while it turned the log into a pack."""
    (path,) = filled(tmp_path, range(20)).folder.iterdir()
    content = path.read_bytes()
    entries = struct.unpack("<8sQQI", content[-28:])[1]
    for size in range(entries, len(content)):
        path.rename(path.with_suffix(".log")).write_bytes(content[:size])
        assert all(holds(open_store(tmp_path), range(20)))
        path.with_suffix(".log").rename(path)


@pytest.mark.parametrize("bit", [0x10, 0x80])
def test_a_changed_byte_never_gives_a_wrong_payload(bit: int, tmp_path: Path) -> None:
    """Every byte of a pack is changed in turn. Each entry is correct or missing; a missing one can be written again."""
    (path,) = filled(tmp_path, range(6)).folder.iterdir()
    content, lost = path.read_bytes(), []
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= bit
        path.write_bytes(changed)
        store = open_store(tmp_path)
        there = holds(store, range(6))
        lost.append(there.count(False))
        missing = [number for number in range(6) if not there[number]]
        for number in missing:
            store.write(key(number), payload(number))
        assert all(holds(store, range(6)))
        for log in tmp_path.glob("*.log"):
            log.unlink()
    assert max(lost) <= 4, "a damaged key in the index may mislead the search for others"
    assert lost[:48] == [1] * 48 and lost[-28:] == [0] * 28


@pytest.mark.parametrize("suffix", [".log", ".pack"])
def test_a_changed_byte_of_a_file_without_an_index_loses_one_entry(suffix: str, tmp_path: Path) -> None:
    """The log of a killed process, or a pack whose footer is damaged too. What follows the damage is found."""
    (path,) = filled(tmp_path, range(6)).folder.iterdir()
    content = path.read_bytes()
    start = struct.unpack("<8sQQI", content[-28:])[1]
    path.unlink()
    path, content = path.with_suffix(suffix), content[:start] + (b"" if suffix == ".log" else content[start:-1])
    for place in range(start):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        assert holds(open_store(tmp_path), range(6)).count(False) == 1


def test_damaged_entries_of_any_length_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies before the next entry is longer than what is read at a time, and holds the magic bytes many times."""
    monkeypatch.setattr(packed_store, "SEARCHED_AT_ONCE", 64)
    store = open_store(tmp_path)
    for number in range(4):
        store.write(key(number), payload(number))
    (log,) = tmp_path.glob("*.log")
    content = log.read_bytes()
    begins = content.index(key(2)) - 4
    for rubbish in (bytes(1000), b"HAe1" * 300, b"HAe" * 301, random.Random(0).randbytes(999)):
        log.write_bytes(content[:begins] + rubbish + content[begins:])
        assert all(holds(open_store(tmp_path), range(4)))


def test_a_reader_finds_an_entry_that_looked_like_zeros(tmp_path: Path) -> None:
    """On a network share, the page that another machine writes may come later than the length of the file."""
    writer = open_store(tmp_path)
    for number in range(6):
        writer.write(key(number), payload(number))
    (log,) = tmp_path.glob("*.log")
    content = log.read_bytes()
    begins, ends = content.index(key(2)) - 4, content.index(key(4)) - 4
    log.write_bytes(content[:begins] + bytes(ends - begins) + content[ends:])
    reader = open_store(tmp_path)
    assert holds(reader, range(6)) == [True, True, False, False, True, True]
    log.write_bytes(content)
    reader.refresh()
    assert all(holds(reader, range(6)))


def test_damaged_entries_are_dropped_when_packs_are_joined(tmp_path: Path) -> None:
    (path,) = filled(tmp_path, range(6)).folder.iterdir()
    content = bytearray(path.read_bytes())
    content[48] ^= 1
    path.write_bytes(content)
    store = filled(tmp_path, range(6, 9))
    store.compact()
    assert store.sizes()[:2] == (1, 8) and holds(store, range(9)).count(False) == 1
    store.write(key(0), payload(0))
    assert all(holds(store, range(9)))


def test_an_open_reader_still_reads_after_packs_are_joined(tmp_path: Path) -> None:
    writer = filled(tmp_path, range(100))
    reader = open_store(tmp_path)
    for numbers in (range(100, 150), range(150, 200)):
        for number in numbers:
            writer.write(key(number), payload(number))
        writer.compact()
    assert files(writer) == [".pack"]
    assert all(holds(reader, range(100))), "it reads the removed file, which it keeps open"
    reader.refresh()
    assert all(holds(reader, range(200))) and reader.sizes() == writer.sizes()


def test_a_reader_finds_new_entries_without_a_refresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_store, "REFRESH_SECONDS", 0.0)
    reader, writer = open_store(tmp_path), open_store(tmp_path)
    for number in range(10):
        writer.write(key(number), payload(number))
        assert reader.read(key(number)) == payload(number)


def test_a_file_that_another_machine_removed_causes_a_new_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network share, an open file that another machine removed raises ESTALE."""
    writer, reader = filled(tmp_path, range(20)), open_store(tmp_path)
    kept = reader._segments  # keeps their file descriptors from being reused
    for number in range(20, 30):
        writer.write(key(number), payload(number))
    writer.compact()
    make_stale(kept, monkeypatch)
    assert all(holds(reader, range(30))) and len(kept) == 1


def test_a_log_that_another_machine_joined_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's listing is old and still holds the log, whose handle is stale."""
    dead = open_store(tmp_path)
    dead.write(key(0), payload(0))
    reader, other = open_store(tmp_path), open_store(tmp_path)
    kept, names = reader._segments, [reader._names()]
    make_older(tmp_path / names[0][0], ABANDONED_AFTER_SECONDS + 60)
    other.compact()
    make_stale(kept, monkeypatch)
    listed = reader._names
    monkeypatch.setattr(reader, "_names", lambda: names.pop() if names else listed())
    reader.refresh()
    assert not names and reader.sizes() == other.sizes() and holds(reader, range(1)) == [True]
    reader._segments = kept
    reader.compact()
    assert reader.sizes() == other.sizes() and holds(reader, range(1)) == [True]


def make_stale(segments: tuple[packed_store.Segment, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the open files of these segments fail as on a share from which another machine removed them."""
    stale = {segment._file.fileno() for segment in segments}

    def fail_if_stale(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(descriptor: int, *arguments: int) -> Any:
            if descriptor in stale:
                raise OSError(errno.ESTALE, "Stale file handle")
            return call(descriptor, *arguments)

        return wrapped

    for name in ("pread", "fstat"):
        monkeypatch.setattr(os, name, fail_if_stale(getattr(os, name)))


def test_any_other_disk_error_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = filled(tmp_path, range(5))

    def fail(*arguments: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match="Input/output error"):
        reader.read(key(0))


def test_two_threads_that_join_packs_at_once_lose_nothing(tmp_path: Path) -> None:
    stores = [open_store(tmp_path) for _ in range(2)]

    def work(which: int) -> None:
        for start in range(which * 300, which * 300 + 300, 10):
            for number in range(start, start + 10):
                stores[which].write(key(number), payload(number))
            stores[which].compact()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    stores[0].compact()
    fresh = open_store(tmp_path)
    assert all(holds(fresh, range(600))) and fresh.sizes()[:2] == (1, 600)
    assert files(fresh) == [".pack"]


def test_a_full_disk_loses_only_what_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, write_whole = open_store(tmp_path), packed_store._write_whole
    store.write(key(0), payload(0))

    def full(file: object, content: bytes) -> None:
        write_whole(file, content[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packed_store, "_write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(key(1), payload(1))
    monkeypatch.setattr(packed_store, "_write_whole", write_whole)
    store.write(key(2), payload(2))
    for reader in (store, open_store(tmp_path)):
        assert holds(reader, range(3)) == [True, False, True]


def test_packs_that_cannot_be_joined_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, range(10))
    store = filled(tmp_path, range(10, 20))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.compact()
    assert files(store) == [".pack", ".pack"] and all(holds(open_store(tmp_path), range(20)))


def test_a_log_is_joined_when_its_process_has_been_dead_for_a_day(tmp_path: Path) -> None:
    dead = open_store(tmp_path)
    dead.write(key(0), payload(0))
    store = filled(tmp_path, range(1, 5))
    store.compact()
    assert files(store) == [".log", ".pack"], "its process may still run"
    (log,) = tmp_path.glob("*.log")
    make_older(log, ABANDONED_AFTER_SECONDS + 60)
    store.compact()
    assert files(store) == [".pack"] and all(holds(open_store(tmp_path), range(5)))


def test_a_log_closed_after_others_joined_it_as_abandoned_loses_nothing(tmp_path: Path) -> None:
    """Hashes of files are written first. Their log is closed after the last clip is encoded, maybe days later."""
    slow, other = filled(tmp_path, range(1)), open_store(tmp_path)
    slow.write(key(1), payload(1))
    (log,) = tmp_path.glob("*.log")
    make_older(log, ABANDONED_AFTER_SECONDS + 60)
    other.compact()
    assert not log.exists()
    slow.seal()
    slow.write(key(2), payload(2))
    slow.seal()
    for reader in (slow, open_store(tmp_path)):
        assert all(holds(reader, range(3)))


def test_a_write_after_an_hour_without_writes_begins_a_new_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes take the old log for abandoned only much later."""
    store = open_store(tmp_path)
    store.write(key(0), payload(0))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + IDLE_SECONDS + 60)
    store.write(key(1), payload(1))
    assert files(store) == [".log", ".pack"] and all(holds(open_store(tmp_path), range(2)))
    assert IDLE_SECONDS * 10 < ABANDONED_AFTER_SECONDS


def test_large_packs_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (large,) = filled(tmp_path, range(100)).folder.iterdir()
    monkeypatch.setattr(packed_store, "LARGE_PACK_BYTES", large.stat().st_size)
    before = large.stat().st_mtime_ns
    for numbers in (range(100, 105), range(105, 110)):
        store = filled(tmp_path, numbers)
        store.compact()
    assert len(files(store)) == 2 and large.stat().st_mtime_ns == before
    assert all(holds(open_store(tmp_path), range(110)))
