"""The command ``prepare_data encode``: each clip is encoded once, also by several runs at a time and after kills."""

import errno
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from boson_multimodal.audio_processing import packed_store
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from tests.chatml_files import write_records
from tests.training_runs import ENVIRONMENT, PROJECT, run
from tests.voice_cloning.corpora.encoded_clips import clips_and_records, codec_cache, entries
from tools.prepare_data.__main__ import main
from voice_cloning.corpora.encode import encode_files


def command(data: Path, demo: Path, cache: Path, *more: str, processes: int | None = None) -> list[str]:
    verb = [str(data), "--codec", str(demo / "audio_tokenizer"), "--code_cache_dir", str(cache), *more]
    launcher = [sys.executable]
    if processes:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launcher, "-m", "tools.prepare_data", "encode", *verb]


def test_encode_fills_the_cache_once(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, cache = clips_and_records(tmp_path, 5), tmp_path / "cache"
    arguments = command(data, demo, cache)[3:]
    assert main(arguments) == 0
    assert "6 clips, 0.00 h; 6 of them encoded now" in capsys.readouterr().out
    assert [path.suffix for path in codec_cache(demo, cache).iterdir()].count(".pack") == 1
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "6 clips, 0.00 h; 0 of them encoded now" in printed and "holds 6 clips in 1 files" in printed


def test_two_processes_of_torchrun_fill_one_cache(demo: Path, tmp_path: Path) -> None:
    data = clips_and_records(tmp_path, 6)
    for cache, processes in (("one", None), ("two", 2)):
        result = run(command(data, demo, tmp_path / cache, processes=processes))
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("7 clips, 0.00 h; 7 of them encoded now") == 1
    assert entries(demo, tmp_path / "one") == entries(demo, tmp_path / "two")


def test_two_runs_at_once_fill_one_cache_as_one_run_does(demo: Path, tmp_path: Path) -> None:
    data, cache = clips_and_records(tmp_path, 12), tmp_path / "cache"
    encode_files([data], str(demo / "audio_tokenizer"), str(tmp_path / "alone"))
    both = [
        subprocess.Popen(command(data, demo, cache), env=ENVIRONMENT, cwd=PROJECT, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert entries(demo, cache) == entries(demo, tmp_path / "alone") and len(entries(demo, cache)) == 13
    assert encode_files([data], str(demo / "audio_tokenizer"), str(cache)).encoded == 0
    assert not list(cache.glob("*/*.tmp")) and not list(cache.glob("*/*.log"))


CLIPS_PER_KILL = 16
ENDING_SECONDS = 1.0
"""Roughly the time to encode these clips, to seal and join the packs, and to exit."""


def encode_until(arguments: list[str], cache: Path, demo: Path, wanted: int) -> tuple[subprocess.Popen[bytes], float]:
    """Start ``encode``, wait until it ends or the cache has ``wanted`` entries, and return it and the seconds."""
    began = time.monotonic()
    process = subprocess.Popen(arguments, env=ENVIRONMENT, cwd=PROJECT, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not cache.exists() or len(entries(demo, cache)) < wanted):
        time.sleep(0.02)
    return process, time.monotonic() - began


def kill_while_encoding(demo: Path, folder: Path, kills: int) -> None:
    """Kill ``encode`` at random moments and check that a last run completes the cache.

    Each third process is killed while it starts, the others while they encode, seal, join packs or exit. Each process
    has new clips to encode, so that there is work at each of these moments.
    """
    generator, cache, before, starting = random.Random(kills), folder / "cache", {}, 0.0
    records = json.loads(clips_and_records(folder, CLIPS_PER_KILL * (kills + 1)).read_text(encoding="utf-8"))
    data = [write_records(folder / f"{n}.json", records[: CLIPS_PER_KILL * (n + 1)]) for n in range(kills + 1)]
    encode_files([data[-1]], str(demo / "audio_tokenizer"), str(folder / "alone"))
    alone = entries(demo, folder / "alone")
    for number in range(kills):
        wanted = 0 if number % 3 == 1 else len(before) + 1
        process, seconds = encode_until(command(data[number], demo, cache), cache, demo, wanted)
        starting = seconds if number == 0 else starting
        time.sleep(generator.uniform(0, ENDING_SECONDS if wanted else starting))
        process.kill()
        process.wait(60)
        there = entries(demo, cache)
        assert before.items() <= there.items() <= alone.items(), f"kill {number}"
        before = there
    result = run(command(data[-1], demo, cache))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{len(alone)} clips, ")
    assert f"; {len(alone) - len(before)} of them encoded now" in result.stdout
    assert entries(demo, cache) == alone


def test_encode_continues_after_three_kills(demo: Path, tmp_path: Path) -> None:
    kill_while_encoding(demo, tmp_path, 3)


@pytest.mark.slow
def test_encode_continues_after_ten_kills(demo: Path, tmp_path: Path) -> None:
    kill_while_encoding(demo, tmp_path, 10)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    """Return what ``encode`` prints when it exits with ``status``."""
    assert main(arguments) == status
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize("place", ["cache", "cache/content_hashes"])
def test_a_cache_that_cannot_be_written_to_is_named(
    place: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file stands in the place of a folder."""
    data, cache = clips_and_records(tmp_path, 1), tmp_path / "cache"
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    said = refusal(command(data, demo, cache)[3:], capsys)
    assert (
        said.startswith(f"error: --code_cache_dir {cache}: cannot be used (")
        and "give a writable folder on a disk with free space" in said
    )


@pytest.mark.parametrize("name", ["nowhere/x.safetensors", ""])
def test_an_export_to_no_folder_is_refused_before_anything_is_encoded(
    name: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, cache, export = clips_and_records(tmp_path, 1), tmp_path / "cache", tmp_path / name
    said = refusal(command(data, demo, cache, "--export", str(export))[3:], capsys)
    assert said == f"error: --export {export}: give the name of a file, in a folder that is there"
    assert not cache.exists()


def test_a_full_disk_is_named_and_encoded_clips_stay(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = clips_and_records(tmp_path, 5), tmp_path / "cache"
    write_whole, written = packed_store._write_whole, []

    def full_after_eight(file: BinaryIO, content: bytes) -> None:
        """Fail after six hashes and two clips."""
        if len(written) == 8:
            file.write(content[:20])
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(content)
        write_whole(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(packed_store, "_write_whole", full_after_eight)
        said = refusal(command(data, demo, cache)[3:], capsys)
    assert said.startswith(
        f"error: --code_cache_dir {cache}: cannot be used (No space left on device); give a writable folder"
    )
    assert len(entries(demo, cache)) == 2
    assert main(command(data, demo, cache)[3:]) == 0
    assert "; 4 of them encoded now" in capsys.readouterr().out


def test_ctrl_c_keeps_encoded_clips(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache, calls = clips_and_records(tmp_path, 5), tmp_path / "cache", []
    encode = HiggsAudioTokenizer.encode

    def interrupted(self: HiggsAudioTokenizer, waveforms_BS: torch.Tensor) -> torch.Tensor:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(waveforms_BS)
        return encode(self, waveforms_BS)

    with monkeypatch.context() as patch:
        patch.setattr(HiggsAudioTokenizer, "encode", interrupted)
        assert refusal(command(data, demo, cache)[3:], capsys, status=130) == "interrupted"
    assert not list(cache.glob("*/*.log")) and len(entries(demo, cache)) == 2
    assert main(command(data, demo, cache)[3:]) == 0
    assert "; 4 of them encoded now" in capsys.readouterr().out


def test_every_missing_file_and_the_missing_codec_are_named(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.json").write_text("[")
    names = [str(tmp_path / name) for name in ("one.json", "broken.json", "two.json")]
    codec = ["--codec", str(demo / "audio_tokenizer"), "--code_cache_dir", str(tmp_path / "cache")]
    said = refusal(["encode", *names, *codec, "--drop_invalid"], capsys)
    assert said.count(": no such file; give a ChatML") == 2 and "broken.json: not JSON" in said
    codec[1] = str(tmp_path / "nothing")
    assert refusal(["encode", *names, *codec], capsys).startswith(f"error: --codec {codec[1]}: no such folder")
