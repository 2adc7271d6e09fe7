"""The dataset's cache of codes: when a clip is encoded, damaged entries, and several runs at a time."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from boson_multimodal.audio_processing.code_cache import SHAPE, CodeCache
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, codec_identity
from boson_multimodal.audio_processing.packed_store import ABANDONED_AFTER_SECONDS
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, load, make_cache, record, write_clip, write_records
from tests.dataset.encoded_samples import Load, SumCodec, codes_of, encoded, no_codec, plain_record, same_codes


def test_a_second_construction_encodes_nothing_and_needs_no_codec(load_here: Load, codec: HiggsAudioTokenizer) -> None:
    records = [plain_record("a"), record("b", audio("tgt.wav"), audio("ref.wav", offset=0.1))]
    first = load_here(records)
    assert first.encode_missing(lambda: codec) == 3
    second = load_here(records)
    assert second.encode_missing(no_codec) == 0
    assert second.lengths.tolist() == first.lengths.tolist()
    assert all(same_codes(codes_of(first, i), codes_of(second, i)) for i in range(2))


def test_a_limit_holds_alike_before_and_after_encoding(load_here: Load) -> None:
    dataset = encoded(load_here([plain_record()]), SumCodec())
    length = dataset.lengths[0]
    shutil.rmtree(dataset.cache.folder)
    for _ in range(2):
        assert len(load_here([plain_record()], max_positions=length)) == 1
        with pytest.raises(InputError, match=f"is {length} positions long"):
            load_here([plain_record()], max_positions=length - 1)
        encoded(load_here([plain_record()]), SumCodec())


def codes_as(array: np.ndarray, *shape: int) -> bytes:
    """A payload of the cache."""
    return SHAPE.pack(*(shape or array.shape)) + array.tobytes()


UNSOUND: dict[str, bytes] = {
    "empty": b"",
    "cut in the shape": codes_as(np.zeros((8, 10), np.int16))[:5],
    "cut in the codes": codes_as(np.zeros((8, 10), np.int16))[:-7],
    "too long": codes_as(np.zeros((8, 10), np.int16)) + b"xx",
    "another kind of content": b"hello" * 50,
    "zeros": bytes(300),
    "code too high": codes_as(np.full((8, 10), 1024, np.int16)),
    "code negative": codes_as(np.full((8, 10), -1, np.int16)),
    "wrong type": codes_as(np.zeros((8, 10), np.int64)),
    "floats": codes_as(np.full((8, 10), 0.5, np.float32)),
    "wrong number of codebooks": codes_as(np.zeros((7, 10), np.int16)),
    "a huge shape": codes_as(np.zeros((8, 10), np.int16), 8, 2**32 - 1),
    "no frames": codes_as(np.zeros((8, 0), np.int16)),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_an_entry_that_no_codec_wrote_is_encoded_anew(name: str, load_here: Load) -> None:
    """Whole, by its checksum, and yet no codes of this codec; also once it is packed with what replaced it."""
    first = load_here([plain_record()])
    key = first.records[0].keys[1]
    first.cache.store.write(bytes.fromhex(key), UNSOUND[name])
    first.cache.seal()
    second = load_here([plain_record()])
    assert second.encode_missing(SumCodec) == 2
    wanted = codes_of(second, 0)
    assert [codes.shape[1] for codes in wanted] == [10, 16]
    third = load_here([plain_record()])
    assert third.encode_missing(no_codec) == 0 and same_codes(codes_of(third, 0), wanted)


def flip(place: Callable[[bytes], int]) -> Callable[[bytes], bytes]:
    """The file with one byte changed."""

    def flipped(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place(content)] ^= 0x40
        return bytes(changed)

    return flipped


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "empty": (lambda content: b"", 2),
    "cut in the first header": (lambda content: content[:40], 2),
    "cut in the second codes": (lambda content: content[:400], 1),
    "cut in the index": (lambda content: content[:-40], 0),
    "another kind of file": (lambda content: b"hello" * 50, 2),
    "zeros": (lambda content: bytes(len(content)), 2),
    "a byte of the first header": (flip(lambda content: 20), 1),
    "a byte of the first codes": (flip(lambda content: 90), 1),
    "the last byte of the second codes": (flip(lambda content: content.index(b"HAindex1") - 2 * 44 - 1), 1),
    "a byte of a key in the index": (flip(lambda content: content.index(b"HAindex1") - 44), 1),
    "a byte of an offset in the index": (flip(lambda content: content.index(b"HAindex1") - 12), 1),
    "a byte of a length in the index": (flip(lambda content: content.index(b"HAindex1") - 4), 1),
    "a byte of the footer": (flip(lambda content: len(content) - 10), 0),
}
"""What happens to the only file of a cache with two entries, and how many clips are encoded again."""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_entry_is_encoded_anew(name: str, load_here: Load) -> None:
    first = encoded(load_here([plain_record()]), SumCodec())
    wanted, lengths = codes_of(first, 0), first.lengths
    (path,) = first.cache.folder.glob("*.pack")
    whole = path.read_bytes()
    damage, encoded_again = DAMAGES[name]
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    second = load_here([plain_record()])
    assert second.encode_missing(SumCodec) == encoded_again
    assert same_codes(codes_of(second, 0), wanted) and second.lengths.tolist() == lengths.tolist()
    assert load_here([plain_record()]).encode_missing(no_codec) == 0


def test_codes_of_a_clip_are_one_read(load_here: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples in random order, from packs of which each holds some."""
    dataset = encoded(load_here([plain_record(f"s{i}") for i in range(3)]), SumCodec())
    for number in range(3):  # more packs, to be asked for what they do not hold
        other = make_cache(dataset.cache.folder.parent)
        other.write(f"{number:064x}", torch.zeros(8, 5, dtype=torch.int64))
        other.seal()
    dataset.cache.store.refresh()
    assert dataset.cache.store.sizes()[:2] == (4, 5)
    reads, pread = [], os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    for index in (2, 0, 1, 0):
        reads.clear()
        item = dataset[index]
        assert len(reads) == len(dataset.records[index].clips) == 2
        assert sum(reads) == item.audio_ids_concat.numel() * 2 + 2 * (48 + SHAPE.size), "and nothing but the entry"


def test_codes_that_vanish_in_a_run_are_named(load_here: Load) -> None:
    dataset = encoded(load_here([plain_record("sample_9")]), SumCodec())
    for path in dataset.cache.folder.iterdir():
        os.truncate(path, 0)
    place = dataset.cache.place(dataset.records[0].keys[0])
    with pytest.raises(InputError) as caught:
        dataset[0]
    assert str(caught.value) == f"sample_9: its codes are no longer in {place}; start again to encode the clip again"


def test_a_disk_that_keeps_nothing_is_named(load_here: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_here([plain_record()])
    monkeypatch.setattr(CodeCache, "write", lambda self, key, codes: None)
    with pytest.raises(InputError, match="not there after encoding; is the disk full or not shared?"):
        dataset.encode_missing(SumCodec)


def test_a_clip_that_changes_is_encoded_anew(load_here: Load, folder: Path) -> None:
    encoded(load_here([plain_record()]), SumCodec())
    write_clip(folder / "ref.wav", seconds=0.4, seed=77)
    assert load_here([plain_record()]).encode_missing(SumCodec) == 1


def test_a_clip_that_changes_before_it_is_encoded_is_named(load_here: Load, folder: Path) -> None:
    """Its codes would go by the key of what it was."""
    dataset = load_here([plain_record()])

    def load_codec() -> SumCodec:
        write_clip(folder / "tgt.wav", seconds=0.4, seed=77)
        return SumCodec()

    with pytest.raises(InputError, match="tgt.wav: has changed since this run checked it; start again"):
        dataset.encode_missing(load_codec)
    again = load_here([plain_record()])
    again.encode_missing(SumCodec)
    assert again.records[0].keys[0] == dataset.records[0].keys[0]
    assert dataset.cache.read(dataset.records[0].keys[1]) is None


def test_another_codec_has_another_folder(
    demo: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    shutil.copytree(demo / "audio_tokenizer", tmp_path / "other_codec")
    with (tmp_path / "other_codec" / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    identities = [codec_identity(demo / "audio_tokenizer"), codec_identity(tmp_path / "other_codec")]
    assert identities[0] == codec_identity(demo / "audio_tokenizer") != identities[1]
    path = write_records(folder / "data.json", [plain_record()])
    caches = [make_cache(folder / "cache", identity) for identity in identities]
    assert caches[0].folder.parent == caches[1].folder.parent and caches[0].folder != caches[1].folder
    assert [load(path, tokenizer, cache).encode_missing(SumCodec) for cache in caches] == [2, 2]
    assert [load(path, tokenizer, cache).encode_missing(no_codec) for cache in caches] == [0, 0]


def test_the_configuration_is_part_of_a_codecs_identity(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "audio_tokenizer", tmp_path / "codec")
    with (tmp_path / "codec" / "config.json").open("a") as file:
        file.write("\n")
    assert codec_identity(tmp_path / "codec") != codec_identity(demo / "audio_tokenizer")


def test_readers_see_whole_entries_while_two_writers_write(tmp_path: Path) -> None:
    """Each entry holds one number throughout, so a mixture of two would show. The writers pack now and then."""
    key, rounds = "ab" * 32, 60
    caches = [make_cache(tmp_path) for _ in range(3)]
    done = threading.Event()

    def write(cache: CodeCache, values: range) -> None:
        for value in values:
            cache.write(key, torch.full((8, 400 + value), value))
            if value % 7 == 0:
                cache.compact()

    def read() -> list[tuple[int, list[int]]]:
        seen = []
        while not done.is_set() or not seen:
            caches[2].store.refresh()
            codes = caches[2].read(key)
            if codes is not None:
                seen.append((codes.shape[1], codes.unique().tolist()))
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [
            pool.submit(write, caches[0], range(rounds)),
            pool.submit(write, caches[1], range(rounds, 2 * rounds)),
        ]
        try:
            for writer in writers:
                writer.result()
        finally:
            done.set()
        seen = [entry for reader in readers for entry in reader.result()]
    assert seen and all(values == [columns - 400] for columns, values in seen)
    assert not list(caches[0].folder.glob("*.tmp")), "nothing temporary is left"


def test_two_runs_may_fill_one_cache_at_the_same_time(
    folder: Path, tokenizer: PreTrainedTokenizerBase, load_here: Load
) -> None:
    for i in range(20):
        write_clip(folder / f"{i}.wav", seconds=0.2 + 0.01 * i, seed=i)
    path = write_records(folder / "data.json", [record(str(i), audio(f"{i}.wav"), audio("tgt.wav")) for i in range(20)])
    runs = [load(path, tokenizer, make_cache(folder / "cache")) for _ in range(2)]
    start = threading.Barrier(2)

    def codec() -> SumCodec:
        start.wait()
        return SumCodec()

    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda run: run.encode_missing(codec), runs))
    assert counts == [21, 21]
    assert runs[0].lengths.tolist() == runs[1].lengths.tolist()
    assert load(path, tokenizer, make_cache(folder / "cache")).encode_missing(no_codec) == 0
    assert all(same_codes(codes_of(runs[0], i), codes_of(runs[1], i)) for i in range(20))


def test_temporary_files_of_killed_runs_are_harmless_and_go_after_a_day(load_here: Load, folder: Path) -> None:
    dataset = load_here([plain_record()])
    fresh, old = (dataset.cache.folder / f"{name}.tmp" for name in ("fresh", "old"))
    for path in (fresh, old):
        path.write_bytes(b"half a file")
    long_ago = time.time() - ABANDONED_AFTER_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    again = load_here([plain_record()])
    assert again.encode_missing(SumCodec) == 2, "half a file is no entry"
    assert fresh.exists() and not old.exists(), "the other may be a live run's"
