"""Codes of clips on disk, encoded once: packed in few files, keyed by the clip's content, its cut and the codec."""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from boson_multimodal.audio_processing.content_hashes import ContentHashes
from boson_multimodal.audio_processing.packed_store import PackedStore
from boson_multimodal.audio_processing.sound_files import Clip, content_hash
from boson_multimodal.errors import InputError
from boson_multimodal.whole_files import write_whole

SHAPE = struct.Struct("<II")
CODE_DTYPE = np.dtype("<i2")
CODEC_CONFIG = "config.json"
"""Name of the codec's configuration, in its own folder and, as a copy, beside its codes."""


@dataclass(frozen=True)
class FoundCodes:
    """What a clip's codes are called, and the codes themselves where they are there.

    Attributes:
        key: equal for equal clips; enters a run's fingerprint.
        codes_KT: (K, T) codes, or None.
        is_absent: the clip itself is gone; it is known by the content that it had.
    """

    key: str
    codes_KT: Tensor | None = None
    is_absent: bool = False


class CodeCache:
    """Codes by clip key, as K u32 | T u32 | K x T codes int16, in a :class:`PackedStore`.

    Args:
        folder: where caches lie; made if absent.
        codec: the codec's identity; another codec's codes are never returned.
        num_codebooks, codebook_size: what codes must look like to be trusted.

    Raises:
        InputError: if the folder cannot be made; and from each method that writes codes, if it cannot be written to or
            the disk is full. What was written before stays.
    """

    def __init__(self, folder: Path, codec: str, num_codebooks: int, codebook_size: int) -> None:
        self.folder = folder.expanduser() / codec
        with _told(folder):
            self.store = PackedStore(self.folder, lambda payload: self._codes(payload) is not None)
            self.hashes = ContentHashes(folder.expanduser() / "content_hashes")
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size

    def place(self, key: str) -> str:
        """Where the codes of a clip lie, for messages."""
        return f"{self.folder} (entry {key[:16]})"

    def key_of(self, clip: Clip) -> str:
        """Name of a clip's codes.

        Raises:
            InputError: if the clip's file is missing or cannot be opened.
        """
        content, is_there = self.hashes.of(clip.source)
        return clip_key(clip, content if is_there else content_hash(clip.source))

    def find(self, clip: Clip, name: str) -> FoundCodes:
        """A clip's codes; its file may be gone if they are there. ``name`` is what other sources of codes go by.

        Raises:
            InputError: if the codes are not there, and the clip's file is missing or cannot be opened.
        """
        content, is_there = self.hashes.of(clip.source)
        key = clip_key(clip, content)
        codes = self.read(key)
        if codes is None and not is_there:
            return FoundCodes(clip_key(clip, content_hash(clip.source)))
        return FoundCodes(key, codes, not is_there)

    def read(self, key: str) -> Tensor | None:
        """(K, T) codes, or None if they are not there or not what this codec writes (then they are made anew)."""
        payload = self.store.read(bytes.fromhex(key))
        return None if payload is None else torch.from_numpy(self._codes(payload).astype(np.int64))

    def write(self, key: str, codes_KT: Tensor) -> None:
        """Store (K, T) codes."""
        codes = codes_KT.numpy().astype(CODE_DTYPE)
        with _told(self.folder.parent):
            self.store.write(bytes.fromhex(key), SHAPE.pack(*codes.shape) + codes.tobytes())

    def seal(self) -> None:
        """This process writes no more for now."""
        with _told(self.folder.parent):
            self.store.seal()
            self.hashes.store.seal()

    def compact(self) -> None:
        """Join small files: see :meth:`PackedStore.compact`."""
        with _told(self.folder.parent):
            self.store.compact()
            self.hashes.store.compact()

    def _codes(self, payload: bytes) -> np.ndarray | None:
        if len(payload) < SHAPE.size:
            return None
        codebooks, frames = SHAPE.unpack_from(payload)
        size = SHAPE.size + codebooks * frames * CODE_DTYPE.itemsize
        if codebooks != self.num_codebooks or frames == 0 or len(payload) != size:
            return None
        codes = np.frombuffer(payload, CODE_DTYPE, offset=SHAPE.size).reshape(codebooks, frames)
        return codes if codes.min() >= 0 and codes.max() < self.codebook_size else None


def clip_key(clip: Clip, content_sha256: str) -> str:
    """Name of a clip's codes: its content and its cut."""
    cut = f"{content_sha256}:{clip.offset!r}:{clip.duration!r}"
    return hashlib.sha256(cut.encode()).hexdigest()


def remember_codec(folder: Path, codec: str, codec_folder: Path) -> None:
    """Keep a copy of a codec's configuration beside its codes, for :func:`remembered_codecs`.

    Raises:
        InputError: if the folder cannot be written to.
    """
    cache = folder.expanduser() / codec
    with _told(folder):
        cache.mkdir(parents=True, exist_ok=True)
        if not (cache / CODEC_CONFIG).exists():
            write_whole(cache / CODEC_CONFIG, (codec_folder / CODEC_CONFIG).read_bytes())


def remembered_codecs(folder: Path, codec_folder: Path) -> list[str]:
    """Identities of the codecs whose codes lie in ``folder`` and whose configuration is that of ``codec_folder``."""
    wanted = (codec_folder / CODEC_CONFIG).read_bytes()
    found = sorted(folder.expanduser().glob(f"*/{CODEC_CONFIG}"))
    return [path.parent.name for path in found if path.read_bytes() == wanted]


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Name the cache and what its disk refused: Python names no file where a write fails."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--code_cache_dir {folder}: cannot be used ({error.strerror}); give a folder that can be written to, on "
            "a disk with room. What it holds already stays."
        ) from error
