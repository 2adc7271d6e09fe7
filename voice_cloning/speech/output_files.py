"""WAV files of speech, each with a record of what it was made of."""

import hashlib
import json
from pathlib import Path
from typing import Any

from boson_multimodal.whole_files import write_whole
from voice_cloning.speech.audio import wav_bytes
from voice_cloning.speech.requests import RUNAWAY_MARK
from voice_cloning.speech.voice_cloner import Speech

RECORD_SUFFIX = ".json"
"""Added to a WAV's name: what it was made of."""


class OutputFile:
    """One WAV and the record beside it.

    The record is written first and holds the WAV's hash, so that a kill between the two leaves an output that is not
    whole. A WAV without a record is not ours.

    Args:
        path: of the WAV, where its speech ended by itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runaway_path = path.with_name(f"{path.stem}{RUNAWAY_MARK}.wav")

    def problems(self) -> list[str]:
        """Why it must not be written."""
        return [
            f"{path}: is there, and no {path.name}{RECORD_SUFFIX} says that it was spoken here; remove it, or write "
            "elsewhere"
            for path in (self.path, self.runaway_path)
            if path.exists() and not _record_path(path).is_file()
        ]

    def found(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """The record of a whole file that was made of the same; None if there is none."""
        for path in (self.path, self.runaway_path):
            try:
                record = json.loads(_record_path(path).read_text(encoding="utf-8"))
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            except (FileNotFoundError, ValueError):
                continue
            if isinstance(record, dict) and record.get("made_of") == identity and record.get("sha256") == digest:
                return record
        return None

    def write(self, speech: Speech, identity: dict[str, Any], keep_runaway: bool) -> dict[str, Any]:
        """Write what ended by itself under its name, and what ran away under its own or not at all; return the record.

        Whatever an earlier call left under either name is out of date, and removed.
        """
        content = wav_bytes(speech.samples, speech.sampling_rate)
        path = self.runaway_path if speech.failures else self.path
        written = bool(speech.samples.numel()) and (keep_runaway or not speech.failures)
        record = {
            "file": path.name if written else None,
            "seconds": round(speech.seconds, 2),
            "attempts": [1 + piece.attempt for piece in speech.pieces],
            "failures": speech.failures,
            "sha256": hashlib.sha256(content).hexdigest(),
            "made_of": identity,
        }
        for stale in (self.path, self.runaway_path):
            if _record_path(stale).is_file() and not (written and stale == path):
                stale.unlink(missing_ok=True)
                _record_path(stale).unlink()
        if written:
            write_whole(_record_path(path), (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode())
            write_whole(path, content)
        return record


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + RECORD_SUFFIX)
