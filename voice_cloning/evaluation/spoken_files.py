"""Spoken clips on disk: codes, the WAV that the codec makes of them, and a record of what determines them.

codes/SYSTEM/ITEM.SEED.npy     (K, T) int16 codes
codes/SYSTEM/ITEM.SEED.json    the record
audio/SYSTEM/ITEM.SEED.wav     16 bits, if there is a codec
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.errors import InputError
from boson_multimodal.whole_files import write_whole

AUDIO_FOLDER, CODES_FOLDER = "audio", "codes"


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """What is known of one clip when it has been made.

    Attributes:
        made_of: everything that determines the clip. Equal values give equal clips.
        codes_sha256, audio_sha256: of the files; the second is None if there is no waveform.
        ended: whether the model ended each piece by itself, within the cap.
        failures: why a piece did not end, or is empty.
        frames: T.
        seconds: length of the sound, or of the codes if there is none.
        compute_seconds: the clip's part of the time in which its batch was made.
        peak_memory_gb: the most memory in use while its batch was made.
    """

    made_of: dict[str, Any]
    codes_sha256: str
    audio_sha256: str | None
    ended: bool
    failures: list[str]
    frames: int
    seconds: float
    compute_seconds: float
    peak_memory_gb: float

    @property
    def sha256(self) -> str:
        """The hash of what one hears, or of the codes if there is no waveform."""
        return self.audio_sha256 or self.codes_sha256


class ClipFile:
    """The files of one clip. The record is written last, so a clip without a right record counts as not made.

    Args:
        folder: of the evaluation.
        system: the name of the system.
        name: the name of the clip in the system's folder.
    """

    def __init__(self, folder: Path, system: str, name: str) -> None:
        self.audio_name = f"{AUDIO_FOLDER}/{system}/{name}.wav"
        self.audio_path = folder / self.audio_name
        codes = folder / CODES_FOLDER / system
        self._codes_path, self._record_path = codes / f"{name}.npy", codes / f"{name}.json"

    def found(self, made_of: dict[str, Any]) -> ClipRecord | None:
        """Return the record of a complete clip that was made of the same; None if there is none."""
        try:
            record = ClipRecord(**json.loads(self._record_path.read_text(encoding="utf-8")))
            is_whole = record.codes_sha256 == _sha256(self._codes_path.read_bytes()) and (
                record.audio_sha256 is None or record.audio_sha256 == _sha256(self.audio_path.read_bytes())
            )
        except (FileNotFoundError, ValueError, TypeError):  # killed while it was written, or damaged
            return None
        return record if is_whole and record.made_of == made_of else None

    def write(
        self, made_of: dict[str, Any], codes_KT: Tensor, samples: Tensor | None, sampling_rate: int, **facts: Any
    ) -> ClipRecord:
        """Write a clip. ``facts`` are the other fields of its record.

        Raises:
            InputError: if a file cannot be written.
        """
        content = io.BytesIO()
        np.save(content, codes_KT.numpy().astype(np.int16))
        codes = content.getvalue()
        audio = wav_bytes(samples, sampling_rate) if samples is not None and samples.numel() else None
        hashes = {"codes_sha256": _sha256(codes), "audio_sha256": None if audio is None else _sha256(audio)}
        record = ClipRecord(made_of=json.loads(json.dumps(made_of)), **hashes, **facts)
        files = {self._codes_path: codes, self.audio_path: audio}
        files[self._record_path] = (json.dumps(asdict(record), ensure_ascii=False) + "\n").encode()
        for path, part in files.items():
            try:
                if part is None:
                    path.unlink(missing_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, part)
            except OSError as error:
                raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        return record

    def codes_KT(self) -> Tensor:
        """Return the (K, T) codes of a complete clip."""
        return torch.from_numpy(np.load(self._codes_path).astype(np.int64))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
