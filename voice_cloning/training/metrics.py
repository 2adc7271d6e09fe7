"""Write the metrics of a run to ``metrics.jsonl`` and the reporters, and read ``metrics.jsonl``, damaged or not.

A line holds the numbers of a step, or one clip that the model spoke at a step: its sample's id under ``sample``, and
numbers, texts and booleans. A record is written whole or not at all: if a write fails, what was written of it is
removed. Lines and numbers that the disk does not take wait in memory, and are written before the next ones.
"""

import io
import json
import os
import socket
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.disk_errors import naming_disk_errors
from boson_multimodal.whole_files import append_whole, write_whole
from voice_cloning.training.sound_pictures import checked, encode_png, mel_picture

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
SAMPLE = "sample"
"""The name that only the record of a spoken sample has."""
LARGEST_STEP = 2**53
"""Larger numbers are no steps: a plot cannot place them."""
GROUPS = {"eval_": "eval", "spoken_": "speech", "true_": "speech"}
"""Beginning of a number's name -> its group in TensorBoard. Other numbers are in the group ``train``."""


@dataclass(frozen=True)
class MetricsLines:
    """The lines of a ``metrics.jsonl``.

    Attributes:
        sound: each sound line without its line end, and its record: ``step``, and numbers by name; or ``step``,
            ``sample``, and numbers, texts and booleans by name.
        damaged: ``line N: what is wrong`` of each other line.
        has_unfinished: whether the last damaged line has no line end: it is being written, or a kill cut it.
    """

    sound: list[tuple[bytes, dict[str, Any]]]
    damaged: list[str]
    has_unfinished: bool

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """The records of numbers."""
        return [record for _, record in self.sound if SAMPLE not in record]

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The records of spoken samples."""
        return [record for _, record in self.sound if SAMPLE in record]


def read_metrics_lines(path: Path) -> MetricsLines:
    """Read a ``metrics.jsonl``.

    Raises:
        OSError: if the file cannot be read.
    """
    sound, damaged = [], []
    *lines, last = path.read_bytes().split(b"\n")
    problem = None
    for number, line in enumerate([*lines, last] if last else lines, start=1):
        record, problem = _record(line)
        if problem is None:
            sound.append((line, record))
        else:
            damaged.append(f"line {number}: {problem}")
    return MetricsLines(sound, damaged, bool(last) and problem is not None)


def _record(line: bytes) -> tuple[dict[str, Any], str | None]:
    """Return the record in a line, and what is wrong with the line."""
    if not line.strip():
        return {}, "blank"
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON ({error})"
    if not isinstance(record, dict) or "step" not in record:
        return {}, "not an object with a step"
    step = record["step"]
    if type(step) is not int or not 0 <= step < LARGEST_STEP:
        return {}, f"step is {step!r}, not a number of steps"
    if SAMPLE not in record:
        wrong = [f"{name} is {value!r}, not a number" for name, value in record.items() if not _is_number(value)]
        return record, "; ".join(wrong) or None
    wrong = [
        f"{name} is {value!r}, not a number, a text, true or false"
        for name, value in record.items()
        if not (_is_number(value) or type(value) in (str, bool))
    ]
    if type(record[SAMPLE]) is not str:
        wrong.append(f"{SAMPLE} is {record[SAMPLE]!r}, not a text")
    return record, "; ".join(wrong) or None


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < LARGEST_STEP)


class Appends:
    """Appends records to a file in their order. Those that the disk does not take wait in memory.

    Args:
        path: a file, which is created if it does not exist.

    Attributes:
        waiting: records that are not in the file yet.
    """

    def __init__(self, path: Path) -> None:
        # A buffer that could not be written would be written again when the file is closed.
        self._file = path.open("ab", buffering=0)
        self.waiting: deque[bytes] = deque()
        self._end: int | None = None
        """Where the file must end, if a failed write could not be undone."""

    def append(self, record: bytes) -> None:
        """Append a record after those that wait. Raises ``OSError`` if they cannot be written."""
        self.waiting.append(record)
        self.write_waiting()

    def append_or_drop(self, record: bytes) -> None:
        """Append a record that is too large to wait. Raises ``OSError`` if it cannot be written."""
        if self._end is not None:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            self._end = None
        end = self._file.tell()
        try:
            append_whole(self._file, record)
        except OSError:
            if self._file.seek(0, os.SEEK_END) > end:
                self._end = end
            raise

    def write_waiting(self) -> None:
        """Append the records that wait. Raises ``OSError`` if they cannot be written."""
        while self.waiting:
            self.append_or_drop(self.waiting[0])
            self.waiting.popleft()

    def close(self) -> None:
        self._file.close()


class TensorBoardFile:
    """A new file of TensorBoard events.

    It is written in this thread. The writer of torch writes in a thread of its own, which prints a traceback if the
    disk is full.

    Args:
        folder: created if it does not exist.
        first_step: plots of earlier files are cut off from this step on.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # slow to import, and not always needed
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._protocol, self._summary, self._record_writer = event_pb2, summary_pb2, RecordWriter
        folder.mkdir(exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names. No two have the same.
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{nanoseconds:09d}"
        self.events = Appends(folder / name)
        self.events.append(self._record({"file_version": "brain.Event:2"}))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self.events.append(self._record({"step": first_step, "session_log": start}))

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Write numbers by tag. Raises ``OSError`` if they cannot be written; they wait then."""
        values = [{"tag": tag, "simple_value": number} for tag, number in numbers.items()]
        self.events.append(self._record_of(step, values))

    def write_wav(self, step: int, tag: str, content: bytes, samples: int, sampling_rate: int) -> None:
        """Write a mono WAV file of so many samples. Raises ``OSError`` if it cannot be written."""
        audio = self._summary.Summary.Audio(
            sample_rate=sampling_rate,
            num_channels=1,
            length_frames=samples,
            encoded_audio_string=content,
            content_type="audio/wav",
        )
        self.events.append_or_drop(self._record_of(step, [{"tag": tag, "audio": audio}]))

    def write_png(self, step: int, tag: str, content: bytes, height: int, width: int) -> None:
        """Write a PNG file in RGB. Raises ``OSError`` if it cannot be written."""
        rgb = 3  # of the colour spaces of this message
        image = self._summary.Summary.Image(height=height, width=width, colorspace=rgb, encoded_image_string=content)
        self.events.append_or_drop(self._record_of(step, [{"tag": tag, "image": image}]))

    def _record_of(self, step: int, values: list[dict[str, Any]]) -> bytes:
        summary = self._summary.Summary(value=[self._summary.Summary.Value(**value) for value in values])
        return self._record({"step": step, "summary": summary})

    def _record(self, fields: dict[str, Any]) -> bytes:
        record = io.BytesIO()
        event = self._protocol.Event(wall_time=time.time(), **fields)
        self._record_writer(record).write(event.SerializeToString())
        return record.getvalue()


class MetricsWriter:
    """Appends records to ``metrics.jsonl`` and to the chosen reporters, and writes the clips that are heard.

    Args:
        folder: the folder of the run; its ``metrics.jsonl`` is already cut back to ``step``.
        reporters: names from ``REPORTERS``.
        step: the step at which the run begins. Plots of later steps are removed.
        config: all flags, for wandb.

    Attributes:
        folder: the folder of the run.

    Raises:
        DiskError: if a file cannot be written, also from the methods. Lines and numbers wait then, clips and pictures
            are left out.
    """

    def __init__(self, folder: Path, reporters: list[str], step: int, config: dict[str, Any]) -> None:
        self.folder = folder
        self._tensorboard = self._wandb = self._wandb_media = None
        with self._naming_disk_errors():
            self._lines = Appends(folder / METRICS_FILE)
            if "tensorboard" in reporters:
                self._tensorboard = TensorBoardFile(folder / TENSORBOARD_FOLDER, step + 1)
        if "wandb" in reporters:
            import wandb  # optional; the configuration has checked that it is installed

            self._wandb, self._wandb_media = wandb.init(config=config, dir=str(folder), resume="allow"), wandb

    def write(self, record: dict[str, Any]) -> None:
        """Write one record of numbers, which must hold ``step``."""
        step, numbers = record["step"], {k: v for k, v in record.items() if k != "step"}
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
        with self._naming_disk_errors():
            try:
                self._lines.append((json.dumps(record) + "\n").encode())
            finally:
                if self._tensorboard is not None:
                    self._tensorboard.write(step, {f"{_group(name)}/{name}": value for name, value in numbers.items()})

    def write_sample(self, record: dict[str, Any]) -> None:
        """Write the record of one spoken sample to ``metrics.jsonl``. It must hold ``step`` and ``sample``."""
        with self._naming_disk_errors():
            self._lines.append((json.dumps(record) + "\n").encode())

    def write_clip(self, name: str, samples: Tensor, sampling_rate: int) -> None:
        """Write (samples,) in -1..1 to a WAV file of this name below the folder of the run."""
        path = self.folder / name
        with self._naming_disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, wav_bytes(samples, sampling_rate))

    def write_sound(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        """Give (samples,) in -1..1 to the reporters, to be heard.

        Raises:
            InputError: also if the waveform is not (samples,) of finite numbers.
        """
        wave = checked(tag, samples)
        if self._tensorboard is not None:
            with self._naming_disk_errors():
                self._tensorboard.write_wav(step, tag, wav_bytes(wave, sampling_rate), len(wave), sampling_rate)
        if self._wandb is not None:
            sound = self._wandb_media.Audio(wave.clamp(-1.0, 1.0).numpy(), sample_rate=sampling_rate)
            self._wandb.log({tag: sound}, step=step)

    def write_mel(self, step: int, tag: str, samples: Tensor, sampling_rate: int) -> None:
        """Give a picture of the mel spectrogram of (samples,) in -1..1 to the reporters, as ``tag/mel``.

        A name in TensorBoard and in W&B stands for one kind of content, and ``tag`` may be that of the sound.

        Raises:
            InputError: also if the waveform is not (samples,) of finite numbers.
        """
        wave = checked(tag, samples)
        if self._tensorboard is None and self._wandb is None:
            return
        pixels, tag = mel_picture(wave, sampling_rate), f"{tag}/mel"
        if self._tensorboard is not None:
            with self._naming_disk_errors():
                self._tensorboard.write_png(step, tag, encode_png(pixels), *pixels.shape[:2])
        if self._wandb is not None:
            self._wandb.log({tag: self._wandb_media.Image(pixels)}, step=step)

    @property
    def waiting(self) -> int:
        """The number of lines and plotted records that wait for the disk."""
        return sum(len(appends.waiting) for appends in self._appends())

    def write_waiting(self) -> None:
        """Write what waits. Raises ``DiskError`` if it cannot be written."""
        with self._naming_disk_errors():
            for appends in self._appends():
                appends.write_waiting()

    def close(self) -> None:
        """Close the files. What still waits is lost."""
        for appends in self._appends():
            appends.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _appends(self) -> list[Appends]:
        return [self._lines, *([self._tensorboard.events] if self._tensorboard is not None else [])]

    def _naming_disk_errors(self) -> Any:
        return naming_disk_errors(self.folder, RESUME_ADVICE)


def _group(name: str) -> str:
    return next((group for beginning, group in GROUPS.items() if name.startswith(beginning)), "train")


RESUME_ADVICE = "Make room for the run, and run the same command again: it resumes from its newest checkpoint"
