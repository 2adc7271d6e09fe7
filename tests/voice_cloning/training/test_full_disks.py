"""A disk that fills while a run writes: the message says so, nothing half-written stays, and the run resumes."""

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.audio_processing.packed_store import PackedStore
from boson_multimodal.disk_errors import naming_disk_errors
from boson_multimodal.errors import InputError
from boson_multimodal.whole_files import TEMPORARY_PREFIX, append_whole, write_whole
from tests.full_disks import fill, small_disk
from tests.run_damages import SETTINGS
from tests.training_runs import assert_same_adapter, command, flags, metrics, run, trainer
from voice_cloning.training.metrics import MetricsWriter, read_metrics_lines

KILOBYTES = 12_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", KILOBYTES) as folder:
        yield folder


@pytest.fixture(scope="module")
def whole(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    trainer(demo, folder, **SETTINGS).train()
    return folder


def half_written(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.name.startswith(TEMPORARY_PREFIX)]


def kilobytes_of(checkpoint: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size // 1024 for path in checkpoint.iterdir()}


@pytest.mark.parametrize("moment", ["run.json", "the adapter", "the optimizer"])
def test_a_disk_that_fills_during_a_save(
    demo: Path,
    disk: Path,
    whole: Path,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = kilobytes_of(whole / "checkpoint-000004")
    room = {
        "run.json": 0,
        "the adapter": sizes["adapter_model.safetensors"] // 2,
        "the optimizer": sizes["adapter_model.safetensors"] + sizes["optimizer.pt"] // 2,
    }
    write, out = program.ArabicVoiceCloningDistributedTrainer._save, disk / "run"

    def filling(self: program.ArabicVoiceCloningDistributedTrainer, *args: object) -> None:
        if self.components.state.step == 4:
            self.components.checkpoints.finish()
            fill(disk, room[moment])
        write(self, *args)

    monkeypatch.setattr(program.ArabicVoiceCloningDistributedTrainer, "_save", filling)
    assert program.main(flags(demo, out, **SETTINGS)) == 1
    said = capsys.readouterr().err
    assert f"error: {out}: the disk is full (No space left on device" in said
    assert re.search(r"[0-9.]+ MB are free on its file system", said)
    assert f"run the same command again: it resumes from {out / 'checkpoint-000002'}" in said
    assert "Traceback" not in said and "inline_container" not in said
    assert half_written(out) == []
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-000002"]
    assert_same_adapter(out / "checkpoint-000002", whole / "checkpoint-000002")
    (disk / "filler").unlink()
    monkeypatch.undo()
    assert program.main(flags(demo, out, **SETTINGS)) == 0
    assert_same_adapter(out / "checkpoint-000006", whole / "checkpoint-000006")
    assert metrics(out) == metrics(whole)


@pytest.mark.parametrize("reporters", [[], ["tensorboard"]])
def test_a_disk_that_fills_while_metrics_are_written(
    disk: Path, reporters: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    writer = MetricsWriter(disk, reporters, 0, {})
    record = {"step": 1, **{f"loss_{number}": 1.0 for number in range(200)}}
    fill(disk, 64)
    with pytest.raises(InputError, match=rf"^{disk}: the disk is full \(No space left on device; .*same command again"):
        for _ in range(1000):
            writer.write(record)
    writer.close()
    lines = (disk / "metrics.jsonl").read_text().split("\n")
    assert len(lines) > 2 and lines[-1] == "", "whole lines only"
    metrics(disk)
    if reporters:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(disk / "tensorboard"))
        events.Reload()
        assert len(events.Scalars("train/loss_0")) >= len(lines) - 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("what", ["sample", "sound", "mel"])
def test_a_disk_that_fills_while_spoken_clips_are_written(disk: Path, what: str) -> None:
    writer = MetricsWriter(disk, ["tensorboard"], 0, {})
    wave = torch.linspace(-1, 1, 4000)
    write = {
        "sample": lambda: writer.write_sample({"step": 1, "sample": "a", "text": "\u0646" * 1000}),
        "sound": lambda: writer.write_sound(1, "a", wave, 24_000),
        "mel": lambda: writer.write_mel(1, "a", wave, 24_000),
    }[what]
    fill(disk, 64)
    with pytest.raises(InputError, match=rf"^{disk}: the disk is full \(No space left on device; .*same command again"):
        for _ in range(1000):
            write()
    writer.close()
    lines = read_metrics_lines(disk / "metrics.jsonl")
    assert lines.damaged == [] and (what == "sample") == bool(lines.samples)


def test_a_disk_that_is_full_when_the_run_begins(demo: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(disk, 0)
    assert program.main(flags(demo, disk / "run", **SETTINGS)) == 1
    assert f"{disk / 'run'}: the disk is full" in capsys.readouterr().err
    assert half_written(disk) == []


def test_a_read_only_folder_is_named(demo: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (disk / "run").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert program.main(flags(demo, disk / "run", **SETTINGS)) == 1
    assert f"{disk / 'run'}: the file system is read-only" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_errors_of_libraries_become_that_of_the_disk(disk: Path, library: str) -> None:
    with pytest.raises(InputError, match=f"^{disk}: the disk is full .No space left on device.*MB are free.*. Do this"):
        with naming_disk_errors(disk, "Do this"):
            tensors = {"weight": torch.zeros(KILOBYTES * 1024 // 4)}
            if library == "safetensors":
                save_file(tensors, disk / "a.safetensors")
            else:
                with (disk / "a.pt").open("wb") as file:
                    torch.save(tensors, file)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="of ours"), naming_disk_errors(tmp_path, ""):
        raise RuntimeError("of ours")


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EDQUOT, "the disk quota is used up"), (errno.EIO, "reports an error"), (errno.EACCES, "cannot be written")],
)
def test_each_reason_has_its_words(tmp_path: Path, number: int, reason: str) -> None:
    with pytest.raises(InputError, match=f"{reason} .{os.strerror(number)}"), naming_disk_errors(tmp_path, "Do this"):
        raise OSError(number, os.strerror(number))


def test_a_whole_file_on_a_full_disk_is_named_and_leaves_nothing(disk: Path) -> None:
    fill(disk, 16)
    with pytest.raises(OSError) as caught:
        write_whole(disk / "train.json", bytes(100_000))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(disk / "train.json"))
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_an_append_on_a_full_disk_leaves_the_file_as_it_was(disk: Path) -> None:
    with (disk / "log").open("ab", buffering=0) as file:
        append_whole(file, b"first")
        fill(disk, 8)
        with pytest.raises(OSError):
            append_whole(file, bytes(100_000))
    assert (disk / "log").read_bytes() == b"first"


def test_a_code_store_on_a_full_disk_keeps_its_entries_and_no_half_one(disk: Path) -> None:
    store = PackedStore(disk / "store", lambda _: True)
    store.write(bytes(32), b"payload")
    (log,) = (disk / "store").glob("*.log")
    size = log.stat().st_size
    fill(disk, 8)
    with pytest.raises(OSError):
        store.write(b"1" * 32, bytes(100_000))
    assert log.stat().st_size == size
    assert PackedStore(disk / "store", lambda _: True).read(bytes(32)) == b"payload"


@pytest.mark.slow
def test_a_full_disk_ends_all_processes(demo: Path, disk: Path) -> None:
    """Another process neither hangs nor prints a trace."""
    out = disk / "run"
    words = flags(demo, out, **{**SETTINGS, "max_steps": 500, "save_steps": 1, "save_total_limit": 0})
    done = run(command(words, 2), timeout=120)
    assert done.returncode != 0
    said = re.findall(r"error on rank ([01]): (.*)", done.stderr)
    # torchrun stops rank 1 before it reports, unless the machine is busy.
    assert {rank for rank, _ in said} in ({"0"}, {"0", "1"}) and len(said) <= 2
    assert all(f"{out}: the disk is full" in message for _, message in said)
    assert half_written(out) == [] and len(list(out.glob("checkpoint-*"))) > 1
    own = [line for line in done.stderr.splitlines() if 'arabic_voice_cloning_distributed_trainer.py"' in line]
    assert own == [], "torchrun prints a trace of its own"
