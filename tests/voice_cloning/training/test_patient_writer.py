"""Metrics on a disk that is full or slow: nothing ends, nothing is half written, and no line is lost."""

import errno
import io
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.errors import InputError
from tests.full_disks import fill, small_disk
from voice_cloning.training import patient_writer
from voice_cloning.training.metrics import Appends, MetricsWriter, read_metrics_lines
from voice_cloning.training.patient_writer import PatientWriter

WIDE = {f"loss_{number}": 1.0 for number in range(200)}


def records(first: int, last: int) -> list[dict[str, Any]]:
    return [{"step": step, **WIDE} for step in range(first, last + 1)]


def test_lines_and_plots_that_a_full_disk_does_not_take_are_written_when_it_is_freed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with small_disk(tmp_path / "disk", 4_000) as disk, caplog.at_level("INFO"):
        writer = PatientWriter(MetricsWriter(disk, ["tensorboard"], 0, {}))
        fill(disk, 8)
        for record in records(1, 20):
            writer.write(record)
            writer.write_sound(record["step"], "a", torch.zeros(4000), 24_000)
        writer.settle(60)
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith(f"{disk}: the disk is full (No space left on device; ")
        lines = read_metrics_lines(disk / "metrics.jsonl")
        assert lines.damaged == [] and 0 < len(lines.sound) < 20
        (disk / "filler").unlink()
        for record in records(21, 22):
            writer.write(record)
        writer.write_sound(22, "a", torch.zeros(4000), 24_000)
        writer.close()
        assert read_metrics_lines(disk / "metrics.jsonl").numbers == records(1, 22)
        events = EventAccumulator(str(disk / "tensorboard"))
        events.Reload()
        assert [event.step for event in events.Scalars("train/loss_0")] == list(range(1, 23))
        assert events.Audio("a")[-1].step == 22 and len(events.Audio("a")) < 20, "clips are left out"
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("voice_cloning")]
    assert ours[1:] == ["the lines of metrics that waited are written now"]


def test_lines_that_are_lost_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", 400) as disk:
        writer = PatientWriter(MetricsWriter(disk, [], 0, {}))
        fill(disk, 0)
        for record in records(1, 3):
            writer.write(record)
        writer.close()
        assert (disk / "metrics.jsonl").stat().st_size == 0
    assert caplog.messages[-1] == "3 records of metrics could not be written and are lost"


def test_a_slow_disk_holds_nobody_up_and_is_said_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_writer, "SLOW_SECONDS", 0.05)
    writer = MetricsWriter(tmp_path, [], 0, {})
    answers, write = threading.Event(), writer.write
    writer.write = lambda record: (answers.wait(60), write(record))
    patient = PatientWriter(writer)
    for record in records(1, 4):
        patient.write(record)
        time.sleep(0.04)
    patient.write_clip("samples/a.wav", torch.zeros(10), 24_000)
    assert read_metrics_lines(tmp_path / "metrics.jsonl").sound == []
    answers.set()
    patient.close()
    assert read_metrics_lines(tmp_path / "metrics.jsonl").numbers == records(1, 4)
    assert (tmp_path / "samples" / "a.wav").read_bytes() == wav_bytes(torch.zeros(10), 24_000)
    assert caplog.messages == [f"{tmp_path}: the disk is slow; metrics wait in memory, and training goes on"]


def test_other_errors_are_raised_by_the_next_call_and_at_the_end(tmp_path: Path) -> None:
    writer = PatientWriter(MetricsWriter(tmp_path, ["tensorboard"], 0, {}))
    writer.write_sound(1, "a", torch.tensor([float("nan")]), 24_000)
    deadline = time.monotonic() + 60
    with pytest.raises(InputError, match="finite"):
        while time.monotonic() < deadline:
            writer.write({"step": 1, "loss": 1.0})
            time.sleep(0.002)
    writer.settle(600)  # it does not wait for a thread that has ended
    with pytest.raises(InputError, match="finite"):
        writer.close()


def test_half_a_record_that_could_not_be_removed_is_removed_before_the_next(tmp_path: Path) -> None:
    class Broken(io.FileIO):
        """Takes half of a record, and fails to cut it off, as a disk that reports errors."""

        is_broken = False

        def write(self, content: Any) -> int:
            if self.is_broken and len(content) < 7:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().write(content[:4]) if self.is_broken else super().write(content)

        def truncate(self, size: int | None = None) -> int:
            if self.is_broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().truncate(size)

    appends = Appends(tmp_path / "log")
    appends._file = Broken(tmp_path / "log", "ab")
    appends.append(b"first\n")
    appends._file.is_broken = True
    with pytest.raises(OSError):
        appends.append(b"second\n")
    assert (tmp_path / "log").read_bytes() == b"first\nseco"
    appends._file.is_broken = False
    appends.append(b"third\n")
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\nthird\n" and not appends.waiting
