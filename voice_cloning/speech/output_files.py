"""WAV files of speech, each with a record of the inputs and settings that it was made from."""

import hashlib
import json
from pathlib import Path
from typing import Any

from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.whole_files import write_whole
from voice_cloning.speech.requests import RUNAWAY_MARK
from voice_cloning.speech.voice_cloner import Speech

RECORD_SUFFIX = ".json"
"""The suffix that is added to a WAV's name for its record."""


class OutputFile:
    """A WAV file and its record.

    The record is written first and contains the hash of the WAV. If the process is killed between the two writes, the
    output therefore counts as incomplete. A WAV without a record was not written by this program.

    Args:
        path: the path of the WAV. A runaway is written to another path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runaway_path = path.with_name(f"{path.stem}{RUNAWAY_MARK}.wav")

    def problems(self) -> list[str]:
        """Return why the output must not be written; an empty list if it may."""
        return [
            f"{path}: exists, but was not written by this program (there is no {path.name}{RECORD_SUFFIX}); remove it, "
            "or choose another output"
            for path in (self.path, self.runaway_path)
            if path.exists() and not _record_path(path).is_file()
        ]

    def found(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Return the record of a complete file that was made from the same inputs; None if there is none."""
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
        """Write the speech to its path, or a runaway to the runaway path if ``keep_runaway``. Return the record.

        Outdated files of an earlier call under either path are removed.
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
