"""Codes of clips on disk, encoded once: one file per clip, named by the clip's content, its cut and the codec."""

import hashlib
import os
import time
import uuid
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from boson_multimodal.audio_processing.sound_files import Clip

DAMAGED = (ValueError, EOFError, TypeError, TokenError, BadZipFile)
"""What numpy raises for a file that is cut short or not one of its own, by where the damage lies."""

ABANDONED_AFTER_SECONDS = 24 * 3600
"""Age at which a temporary file is that of a run which was killed."""


class CodeCache:
    """Codes by clip key. Files appear whole or not at all, so runs may share a folder and may be killed.

    Args:
        folder: where the cache lies; made if absent.
        codec: the codec's identity; another codec's codes are never returned.
        num_codebooks, codebook_size: what codes must look like to be trusted.
    """

    def __init__(self, folder: Path, codec: str, num_codebooks: int, codebook_size: int) -> None:
        self.folder = folder.expanduser() / codec
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self._temporary = self.folder / "tmp"
        self._temporary.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()

    def path(self, key: str) -> Path:
        """Where the codes of a clip lie, or would."""
        return self.folder / key[:2] / f"{key}.npy"

    def read(self, key: str) -> Tensor | None:
        """(K, T) codes, or None if they are not there or not what this codec writes (then they are made anew)."""
        try:
            codes = np.load(self.path(key), allow_pickle=False)
        except (FileNotFoundError, *DAMAGED):
            return None
        fits = codes.ndim == 2 and codes.shape[0] == self.num_codebooks and codes.shape[1] > 0
        if not fits or codes.dtype != np.int16 or codes.min() < 0 or codes.max() >= self.codebook_size:
            return None
        return torch.from_numpy(codes.astype(np.int64))

    def write(self, key: str, codes_KT: Tensor) -> None:
        """Store (K, T) codes under a temporary name, then rename."""
        temporary = self._temporary / f"{key}.{uuid.uuid4().hex}.npy"
        np.save(temporary, codes_KT.to(torch.int16).numpy(), allow_pickle=False)
        target = self.path(key)
        target.parent.mkdir(exist_ok=True)
        os.replace(temporary, target)

    def _remove_abandoned(self) -> None:
        for path in self._temporary.iterdir():
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_AFTER_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # another run renamed or removed it meanwhile
                continue


def clip_key(clip: Clip, content_sha256: str) -> str:
    """Name of a clip's codes: its content and its cut."""
    cut = f"{content_sha256}:{clip.offset!r}:{clip.duration!r}"
    return hashlib.sha256(cut.encode()).hexdigest()
