"""Copies of the real samples that tests change: their records, clips and the report of the check."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.goldens import SAMPLES_DIR
from voice_cloning.data_check.check import check_files

ALWAYS_FOUND = "low_native_rate"
"""The kind that all samples of this data have, because their rate is 16 kHz."""
RATE = 16_000
Expected = dict[str, set[str]]
Record = dict[str, Any]


class Copy:
    """A copy of the samples that a defect is planted in.

    Attributes:
        train, val: the records.
        folder: the folder of the copy; the clips are in ``clips``.
    """

    def __init__(self, folder: Path, speakers: int | None = None, first: int = 0) -> None:
        self.folder = folder
        self.train, self.val = (
            json.loads((SAMPLES_DIR / f"{side}_chatml_samples.json").read_text(encoding="utf-8"))
            for side in ("train", "val")
        )
        if speakers is not None:
            chosen = sorted({record["speaker"] for record in self.train})[:speakers]
            self.train = [record for record in self.train if record["speaker"] in chosen]
        self.train.sort(key=lambda record: record["misc"]["sample_id"])
        self.train = self.train[first:] + self.train[:first]
        for record in (*self.train, *self.val):
            for part in (reference(record), target(record)):
                path = folder / part["audio_url"]
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    shutil.copyfile(SAMPLES_DIR / part["audio_url"], path)

    def read(self, part: Record) -> np.ndarray:
        """Return the samples of a clip as (samples,)."""
        return soundfile.read(self.folder / part["audio_url"], dtype="float32")[0]

    def put(self, part: Record, samples: np.ndarray, rate: int = RATE, name: str = "planted.wav", **how: Any) -> Path:
        """Write a new file and make it the clip of a part."""
        path = self.folder / name
        soundfile.write(path, samples, rate, **how)
        part |= {"audio_url": name, "duration": None, "offset": None}
        return path

    def check(self) -> dict[str, Any]:
        """Return the report on the copy in its current state."""
        for side, records in (("train", self.train), ("val", self.val)):
            text = json.dumps(records, ensure_ascii=False)
            (self.folder / f"{side}.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        files = [self.folder / "train.json", self.folder / "val.json"]
        return check_files(files, self.folder / "report", num_workers=1)


def reference(record: Record) -> Record:
    """Return the audio part of the record's reference."""
    return record["messages"][1]["content"][1]


def target(record: Record) -> Record:
    """Return the audio part of the record's target."""
    return record["messages"][2]["content"][1]


def name(record: Record) -> str:
    return record["misc"]["sample_id"]


def set_target_text(record: Record, words: str) -> None:
    """Replace the target text of a record in all its fields."""
    before = record["misc"]["target_transcript"]
    record["messages"][1]["content"][2]["text"] = record["messages"][1]["content"][2]["text"].replace(before, words)
    record["messages"][2]["content"][0]["text"] = words
    record["misc"]["target_transcript"] = words


def set_reference_text(record: Record, words: str) -> None:
    record["messages"][1]["content"][0]["text"] = record["misc"]["ref_transcript"] = words


def found_kinds(report: dict[str, Any]) -> Expected:
    """Return the kinds that a report holds, with the samples of each."""
    return {entry["kind"]: set(entry["sample_ids"]) for entry in (*report["errors"], *report["warnings"])}
