"""Caches of release 0.1.0 are read as they are; nothing is encoded again, and damage costs what is damaged."""

import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.packed_store import ABANDONED_AFTER_SECONDS
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, load, record, write_clip, write_records
from tests.dataset.encoded_samples import SumCodec, codes_of, no_codec
from tests.full_disks import small_disk
from tests.voice_cloning.corpora.encoded_clips import clips_and_records
from tests.voice_cloning.corpora.frozen_cache import clip_key, codec_identity, write_cache
from voice_cloning.corpora import encode
from voice_cloning.corpora.encode import encode_files


@pytest.fixture
def no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where the codec is loaded."""

    def refuse(*_: object) -> Any:
        raise AssertionError("the codec is not needed")

    monkeypatch.setattr(encode, "load_higgs_audio_tokenizer", refuse)


def earlier_cache(demo: Path, folder: Path, cache: Path, clips: int = 5) -> tuple[Path, dict[Path, list[list[int]]]]:
    """Write clips, their records and an earlier cache. Return the file of records, and the codes by clip."""
    data = clips_and_records(folder, clips)
    generator = random.Random(3)
    names = [folder / "ref.wav", *(folder / f"{i}.wav" for i in range(clips))]
    codes = {
        name: [[generator.randrange(1024) for _ in range(10 + number)] for _ in range(8)]
        for number, name in enumerate(names)
    }
    write_cache(cache, demo / "audio_tokenizer", codes)
    return data, codes


def open_cache(demo: Path, cache: Path) -> CodeCache:
    return CodeCache(cache, codec_identity(demo / "audio_tokenizer"), num_codebooks=8, codebook_size=1024)


def held(demo: Path, cache: Path, codes: dict[Path, list[list[int]]]) -> list[bool]:
    """Return whether the codes of each clip are present. Present codes must be right."""
    found = [open_cache(demo, cache).read(clip_key(clip).hex()) for clip in codes]
    assert all(f is None or f.tolist() == wanted for f, wanted in zip(found, codes.values(), strict=True))
    return [f is not None for f in found]


@pytest.mark.parametrize("is_old", [False, True])
def test_nothing_is_encoded_again(is_old: bool, demo: Path, tmp_path: Path, no_encoding: None) -> None:
    """An old log is joined with the pack, a new one stays: its process may be running."""
    cache, call = tmp_path / "cache", (str(demo / "audio_tokenizer"), str(tmp_path / "cache"))
    data, codes = earlier_cache(demo, tmp_path, cache)
    if is_old:
        then = time.time() - ABANDONED_AFTER_SECONDS - 60
        for path in cache.glob("*/*.log"):
            os.utime(path, (then, then))
    for _ in range(2):
        summary = encode_files([data], *call)
        assert (summary.encoded, summary.clips, summary.entries) == (0, 6, 6)
    assert all(held(demo, cache, codes))
    open_cache(demo, cache).compact()
    assert len(list(cache.glob("*/*.log"))) == (0 if is_old else 3)
    for clip in codes:
        clip.unlink()
    assert encode_files([data], *call).encoded == 0, "the paths and contents of the clips are known too"


def test_only_damaged_entries_are_encoded_again(demo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    data, codes = earlier_cache(demo, tmp_path, cache)
    for suffix in (".pack", ".log"):
        (path,) = (cache / codec_identity(demo / "audio_tokenizer")).glob(f"*{suffix}")
        content = bytearray(path.read_bytes())
        content[30] ^= 1  # the key in the first entry
        path.write_bytes(content)
    assert held(demo, cache, codes) == [False, True, True, False, True, True]
    assert encode_files([data], str(demo / "audio_tokenizer"), str(cache)).encoded == 2
    after = [open_cache(demo, cache).read(clip_key(clip).hex()).tolist() for clip in codes]
    kept = [found == wanted for found, wanted in zip(after, codes.values(), strict=True)]
    assert kept == [False, True, True, False, True, True]


def test_a_read_only_cache_will_do_until_a_clip_is_missing(
    demo: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, no_encoding: None
) -> None:
    """On a file system that is mounted read-only."""
    with small_disk(tmp_path / "disk", 1024) as disk:
        data, codes = earlier_cache(demo, tmp_path, disk / "cache")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert encode_files([data], str(demo / "audio_tokenizer"), str(disk / "cache")).encoded == 0
        dataset = load(data, tokenizer, open_cache(demo, disk / "cache"))
        assert dataset.encode_missing(no_codec) == 0
        assert codes_of(dataset, 0)[1].tolist() == list(codes.values())[1]
        write_clip(tmp_path / "new.wav", 0.4, seed=99)
        records = [*json.loads(data.read_text(encoding="utf-8")), record("new", audio("ref.wav"), audio("new.wav"))]
        more = load(write_records(tmp_path / "more.json", records), tokenizer, open_cache(demo, disk / "cache"))
        with pytest.raises(InputError, match=r"cannot be used \(Read-only file system\)"):
            more.encode_missing(SumCodec)
        assert dataset.encode_missing(no_codec) == 0 and all(held(demo, disk / "cache", codes))
