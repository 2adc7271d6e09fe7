"""ChatML files whose clips are codes only, for tests of the check."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.chatml_files import audio, record, text, write_records
from voice_cloning.data_check.check import check_files

WORDS = "واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية".split()
FRAMES = 100
"""4 s, in which six to eight words are plausible."""


def codes(seed: int, frames: int = FRAMES, size: int = 1024) -> np.ndarray:
    """Return (8, frames) int16 random codes; equal frames are as good as impossible."""
    return np.random.default_rng(seed).integers(0, size, (8, frames)).astype(np.int16)


class CodedData:
    """Six pairs of training data and two of evaluation data without a clip on disk.

    Attributes:
        records: side -> records: ``train0`` to ``train5``, ``val0``, ``val1``, with clips ``train0r``, ``train0t``.
        tensors: clip name -> codes.
    """

    def __init__(self, folder: Path, size: int = 1024) -> None:
        self.folder = folder
        self.records: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
        self.tensors: dict[str, np.ndarray] = {}
        for side, count in (("train", 6), ("val", 2)):
            for number in range(count):
                prefix = f"{side}{number}"
                for kind in "rt":
                    self.tensors[f"{prefix}{kind}"] = codes(len(self.tensors), size=size)
                made = record(prefix, audio(f"{prefix}r"), audio(f"{prefix}t"), speaker=f"{side}{number % 3}")
                self.records[side].append(made)
                self.say(prefix, " ".join(WORDS[number % 3 :]), " ".join(WORDS[: 6 + number % 2]))

    def record(self, sample_id: str) -> dict[str, Any]:
        """Return the record with an id."""
        return next(r for own in self.records.values() for r in own if r["misc"]["sample_id"] == sample_id)

    def say(self, sample_id: str, target: str, reference: str | None = None) -> None:
        """Change the texts of a record."""
        user, assistant = (message["content"] for message in self.record(sample_id)["messages"][1:])
        user[2], assistant[0] = text(target), text(target)
        if reference is not None:
            user[0] = text(reference)

    def clip(self, name: str) -> dict[str, Any]:
        """Return the audio part with the name of a clip."""
        messages = self.record(name[:-1])["messages"]
        return messages[1]["content"][1] if name.endswith("r") else messages[2]["content"][1]

    def write(self) -> tuple[list[Path], Path]:
        """Write the files and return the data files and the file of codes."""
        files = [write_records(self.folder / f"{side}.json", records) for side, records in self.records.items()]
        path = self.folder / "codes.safetensors"
        save_file(self.tensors, path, metadata={"codec": "abc", "frames_per_second": "25"})
        return files, path

    def check(self, **settings: Any) -> dict[str, Any]:
        """Return the report."""
        files, path = self.write()
        return check_files(files, self.folder / "report", codes=[path], num_workers=1, **settings)


Plant = Callable[[CodedData], None]
