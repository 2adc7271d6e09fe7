"""prepare_data encode: the cache is filled once, by whoever and however often it is started and killed."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from boson_multimodal.audio_processing import content_hashes
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, codec_identity
from boson_multimodal.audio_processing.packed_store import PackedStore
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, make_cache, record, write_clip, write_records
from tests.training_runs import ENVIRONMENT, PROJECT, run, trainer
from tools.prepare_data.__main__ import main
from tools.prepare_data.encode import encode_files


def make_old(*paths: Path) -> None:
    """As if the files had been written a minute ago: what has just changed may change again unnoticed."""
    for path in paths:
        os.utime(path, (time.time() - 60, time.time() - 60))


def clips_and_records(folder: Path, count: int) -> Path:
    """So many targets of different lengths, and one reference."""
    paths = [write_clip(folder / "ref.wav", 0.4, seed=1)]
    paths += [write_clip(folder / f"{i}.wav", 0.3 + 0.02 * i, seed=2 + i) for i in range(count)]
    make_old(*paths)
    return write_records(
        folder / "data.json", [record(f"s{i}", audio("ref.wav"), audio(f"{i}.wav")) for i in range(count)]
    )


def words(data: Path, demo: Path, cache: Path, *more: str, processes: int | None = None) -> list[str]:
    verb = [str(data), "--codec", str(demo / "audio_tokenizer"), "--code_cache_dir", str(cache), *more]
    launcher = [sys.executable]
    if processes:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launcher, "-m", "tools.prepare_data", "encode", *verb]


def codec_cache(demo: Path, cache: Path) -> Path:
    return cache / codec_identity(demo / "audio_tokenizer")


def entries(demo: Path, cache: Path) -> dict[bytes, bytes]:
    """What a cache holds."""
    store = PackedStore(codec_cache(demo, cache), lambda content: True)
    return {key: store.read(key) for segment in store._segments for key in segment.keys()}


def test_encode_fills_the_cache_once(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, cache = clips_and_records(tmp_path, 5), tmp_path / "cache"
    arguments = words(data, demo, cache)[3:]
    assert main(arguments) == 0
    assert "6 clips, 0.00 h; 6 of them encoded now" in capsys.readouterr().out
    assert [path.suffix for path in codec_cache(demo, cache).iterdir()].count(".pack") == 1
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "6 clips, 0.00 h; 0 of them encoded now" in printed and "holds 6 clips in 1 files" in printed


def test_the_trainer_takes_what_encode_wrote(
    demo: Path, tmp_path: Path, codec: HiggsAudioTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And needs no codec: with the clips and the codec's weights moved away the run is the same, bit for bit."""
    home = tmp_path / "home"
    shutil.copytree(demo, home, ignore=shutil.ignore_patterns("code_cache"))
    monkeypatch.setattr(content_hashes, "SETTLED_AFTER_SECONDS", 0.0)
    files = [home / f"{part}_chatml_samples.json" for part in ("train", "val")]
    summary = encode_files(files, str(home / "audio_tokenizer"), str(home / "code_cache"))
    assert summary.encoded == summary.clips == 20 and summary.files == 1 and summary.entries == 20
    settings = {"max_steps": 2, "logging_steps": 1}
    whole = trainer(home, tmp_path / "whole", **settings)
    whole.train()
    (home / "clips").rename(tmp_path / "clips")
    (home / "audio_tokenizer" / "model.safetensors").rename(tmp_path / "weights")
    bare = trainer(home, tmp_path / "bare", **settings)
    bare.train()
    assert bare._identity() == whole._identity()
    assert bare.train_dataset.num_absent == 16 and whole.train_dataset.num_absent == 0
    state, other = (subject.model.state_dict() for subject in (whole, bare))
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_a_clip_that_is_gone_is_named_unless_its_codes_are_there(demo: Path, tmp_path: Path) -> None:
    data, cache = clips_and_records(tmp_path, 3), tmp_path / "cache"
    encode_files([data], str(demo / "audio_tokenizer"), str(cache))
    (tmp_path / "1.wav").unlink()
    assert encode_files([data], str(demo / "audio_tokenizer"), str(cache)).encoded == 0
    shutil.rmtree(codec_cache(demo, cache))
    with pytest.raises(InputError, match=r"s1: messages\[2\].content\[1\].audio_url: .*1.wav: no such file"):
        encode_files([data], str(demo / "audio_tokenizer"), str(cache))


def test_codecs_of_one_configuration_are_not_confused(demo: Path, tmp_path: Path) -> None:
    """Without its weights a codec is known by its configuration, if no other in the cache has the same."""
    data, cache = clips_and_records(tmp_path, 1), tmp_path / "cache"
    folders = [tmp_path / name for name in ("one", "other")]
    for number, folder in enumerate(folders):
        shutil.copytree(demo / "audio_tokenizer", folder)
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-1 - number, os.SEEK_END)
            file.write(bytes([number]))
        with pytest.raises(InputError, match=r"no \*.safetensors or model.pth in it; give a whole checkpoint"):
            bare = tmp_path / f"bare_{number}_before"
            shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))
            encode_files([data], str(bare), str(tmp_path / f"empty_{number}"))
        encode_files([data], str(folder), str(cache))
        if number == 0:
            assert encode_files([data], str(bare), str(cache)).encoded == 0
    with pytest.raises(InputError, match="has no weights, and .* holds codes of 2 codecs of its configuration"):
        encode_files([data], str(bare), str(cache))


def test_wrong_records_and_clips_are_listed_at_once(demo: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 0.4)
    write_clip(tmp_path / "short.wav", 0.01)
    (tmp_path / "broken.wav").write_bytes(b"hello")
    pairs = [("a.wav", "short.wav"), ("broken.wav", "gone.wav"), ("a.wav", "a.wav")]
    data = [
        write_records(tmp_path / f"{i}.json", [record(f"s{i}", audio(reference), audio(target))])
        for i, (reference, target) in enumerate(pairs)
    ]
    more = write_records(tmp_path / "3.json", [{"messages": []}])
    call: dict[str, Any] = {"codec_path": str(demo / "audio_tokenizer"), "code_cache_dir": str(tmp_path / "cache")}
    with pytest.raises(InputError) as caught:
        encode_files([*data, more], **call)
    lines = str(caught.value).splitlines()
    assert lines[0] == "invalid samples (--drop_invalid leaves them out) (4):"
    for name, sample, words_of_it in (
        ("0.json", "s0", "0.01 s of audio"),
        ("1.json", "s1", "not readable as audio"),
        ("1.json", "s1", "no such file"),
        ("3.json", "record 0", "it must be a list of at least one turn"),
    ):
        assert any(f"{name}: {sample}: " in line and words_of_it in line for line in lines), words_of_it
    assert encode_files([*data, more], **call, drop_invalid=True).clips == 1


def test_two_processes_of_torchrun_fill_one_cache(demo: Path, tmp_path: Path) -> None:
    data = clips_and_records(tmp_path, 6)
    for cache, processes in (("one", None), ("two", 2)):
        result = run(words(data, demo, tmp_path / cache, processes=processes))
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("7 clips, 0.00 h; 7 of them encoded now") == 1
    assert entries(demo, tmp_path / "one") == entries(demo, tmp_path / "two")


def test_two_at_once_on_one_cache_give_one_cache(demo: Path, tmp_path: Path) -> None:
    data, cache = clips_and_records(tmp_path, 12), tmp_path / "cache"
    encode_files([data], str(demo / "audio_tokenizer"), str(tmp_path / "alone"))
    both = [
        subprocess.Popen(words(data, demo, cache), env=ENVIRONMENT, cwd=PROJECT, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert entries(demo, cache) == entries(demo, tmp_path / "alone") and len(entries(demo, cache)) == 13
    assert encode_files([data], str(demo / "audio_tokenizer"), str(cache)).encoded == 0
    assert not list(cache.glob("*/*.tmp")) and not list(cache.glob("*/*.log"))


def kill_while_encoding(demo: Path, folder: Path, kills: int) -> None:
    """Each start encodes a few clips more and is killed; the last one ends with a whole cache."""
    data, cache = clips_and_records(folder, 4 * kills + 12), folder / "cache"
    encode_files([data], str(demo / "audio_tokenizer"), str(folder / "alone"))
    alone = entries(demo, folder / "alone")
    before = 0
    for _ in range(kills):
        process = subprocess.Popen(words(data, demo, cache), env=ENVIRONMENT, cwd=PROJECT, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not cache.exists() or len(entries(demo, cache)) < before + 2):
            time.sleep(0.01)
        process.kill()
        process.wait(60)
        there = entries(demo, cache)
        assert before < len(there) < len(alone), "killed on the way"
        assert there.items() <= alone.items()
        before = len(there)
    result = run(words(data, demo, cache))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{len(alone)} clips, ")
    assert f"; {len(alone) - before} of them encoded now" in result.stdout
    assert entries(demo, cache) == alone


def test_killed_three_times_encode_goes_on(demo: Path, tmp_path: Path) -> None:
    kill_while_encoding(demo, tmp_path, 3)


@pytest.mark.slow
def test_killed_ten_times_encode_goes_on(demo: Path, tmp_path: Path) -> None:
    kill_while_encoding(demo, tmp_path, 10)


# -- hashes of files -------------------------------------------------------------------------------------------------


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read for their hash."""
    names, content_hash = [], content_hashes.content_hash

    def counted(source: Path | bytes) -> str:
        names.append(source.name)
        return content_hash(source)

    monkeypatch.setattr(content_hashes, "content_hash", counted)
    return names


def test_a_second_start_reads_no_audio_file(demo: Path, tmp_path: Path, read_files: list[str]) -> None:
    data, call = clips_and_records(tmp_path, 4), (str(demo / "audio_tokenizer"), str(tmp_path / "cache"))
    encode_files([data], *call)
    assert len(read_files) == 5
    encode_files([data], *call)
    assert len(read_files) == 5
    make_old(write_clip(tmp_path / "2.wav", 0.34, seed=99))
    (tmp_path / "0.wav").write_bytes((tmp_path / "1.wav").read_bytes())
    assert encode_files([data], *call).encoded == 1, "0.wav is as 1.wav now"
    assert sorted(read_files[5:]) == ["0.wav", "2.wav"]
    os.utime(tmp_path / "0.wav", (1e9, 1e9))
    assert encode_files([data], *call).encoded == 0
    assert read_files[7:] == ["0.wav"], "a file that has just changed is not yet relied on; now it is"
    assert encode_files([data], *call).encoded == 0 and len(read_files) == 8


def test_the_last_version_of_a_file_that_is_gone_counts(tmp_path: Path) -> None:
    hashes, path = content_hashes.ContentHashes(tmp_path / "hashes"), tmp_path / "clip"
    found = []
    for number, content in enumerate([b"first", b"second", b"first"]):
        path.write_bytes(content)
        os.utime(path, (1e9 + number, 1e9 + number))
        found.append(hashes.of(path))
    assert found[0] == found[2] != found[1] and found[0][1]
    path.write_bytes(b"third")
    os.utime(path, (2e9 - 1e9 + 9, 1e9 + 9))
    third = hashes.of(path)
    path.unlink()
    hashes.store.seal()
    assert content_hashes.ContentHashes(tmp_path / "hashes").of(path) == (third[0], False)
    with pytest.raises(InputError, match="no such file"):
        hashes.of(tmp_path / "another")


@pytest.mark.parametrize("name", ["a\0b", "half \ud800", "x" * 300])
def test_a_path_that_is_none_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a path|cannot be read"):
        content_hashes.ContentHashes(tmp_path / "hashes").of(tmp_path / name)


def test_codes_of_a_clip_are_those_of_its_cut(demo: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", 1.0)
    data = write_records(
        tmp_path / "data.json", [record("s", audio("a.wav", duration=0.4), audio("a.wav", offset=0.5))]
    )
    assert encode_files([data], str(demo / "audio_tokenizer"), str(tmp_path / "cache")).clips == 2
    codec = codec_identity(demo / "audio_tokenizer")
    cache = make_cache(tmp_path / "cache", codec)
    frames = sorted(cache._codes(content).shape[1] for content in entries(demo, tmp_path / "cache").values())
    assert frames == [10, 13] and json.loads((cache.folder / "config.json").read_text())
