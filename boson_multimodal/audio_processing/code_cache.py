"""A cache of clips' codes on disk, packed in few files. The key of a clip is its content, its cut and the codec."""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from boson_multimodal.audio_processing.content_hashes import ContentHashes
from boson_multimodal.audio_processing.packed_store import PackedStore
from boson_multimodal.audio_processing.silence_notes import SilenceNotes
from boson_multimodal.audio_processing.sound_files import Clip, content_hash
from boson_multimodal.circumstances import home_path
from boson_multimodal.errors import InputError
from boson_multimodal.teams import Team, team_that_shares
from boson_multimodal.whole_files import write_whole

SHAPE = struct.Struct("<II")
CODE_DTYPE = np.dtype("<i2")
FLAG = "--code_cache_dir"
CODEC_CONFIG = "config.json"
"""The file name of the codec's configuration in the codec's folder, and of the copy that is kept with the codes."""


@dataclass(frozen=True)
class FoundCodes:
    """The key of a clip's codes, and the codes if they exist.

    Attributes:
        key: equal for equal clips. It is part of a run's fingerprint.
        codes_KT: (K, T) codes; None if they do not exist.
        is_absent: whether the clip's file no longer exists; ``key`` is then made from the file's last known content.
        is_silent: whether the clip is silent; None if that is not known.
    """

    key: str
    codes_KT: Tensor | None = None
    is_absent: bool = False
    is_silent: bool | None = None


class CodeCache:
    """A cache of codes by clip key: K u32 | T u32 | K x T codes int16, in a :class:`PackedStore`.

    Args:
        folder: the folder of all caches; it is created if it does not exist.
        codec: the identity of the codec. The cache never returns codes of another codec.
        num_codebooks, codebook_size: the valid shape and range of codes. Entries outside them are ignored.

    Raises:
        InputError: if the folder cannot be created. Every method that writes codes raises it if the folder is not
            writable or the disk is full; earlier entries stay.
    """

    def __init__(self, folder: Path, codec: str, num_codebooks: int, codebook_size: int) -> None:
        place = home_path(folder, FLAG)
        self.folder = place / codec
        with _name_disk_errors(folder):
            self.store = PackedStore(self.folder, self._is_valid)
            self.hashes = ContentHashes(place / "content_hashes")
            self.silence = SilenceNotes(place / "silence")
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size

    @cached_property
    def team(self) -> Team:
        """This process among those that share the cache. All processes must ask for it the first time together."""
        return team_that_shares(self.folder, is_written=True)

    def place(self, key: str) -> str:
        """Return the place of a clip's codes, for messages."""
        return f"{self.folder} (entry {key[:16]})"

    def key_of(self, clip: Clip) -> str:
        """Return the key of a clip's codes.

        Raises:
            InputError: if the clip's file is missing or cannot be opened.
        """
        content, is_there = self.hashes.of(clip.source)
        return clip_key(clip, content if is_there else content_hash(clip.source))

    def find(self, clip: Clip, name: str) -> FoundCodes:
        """Return the key and codes of a clip. If the cache holds its codes, the clip's file need not exist.

        ``name`` is not used here; other sources of codes look a clip up by its name.

        Raises:
            InputError: if the cache lacks the codes, and the clip's file is missing or cannot be opened.
        """
        content, is_there = self.hashes.of(clip.source)
        key = clip_key(clip, content)
        codes = self.read(key)
        if codes is None and not is_there:
            return FoundCodes(clip_key(clip, content_hash(clip.source)))
        return FoundCodes(key, codes, not is_there, None if codes is None else self.silence.of(key))

    def read(self, key: str) -> Tensor | None:
        """Return the (K, T) codes of a key, or None if the cache holds no valid codes for it."""
        payload = self.store.read(bytes.fromhex(key))
        return None if payload is None else torch.from_numpy(_codes(payload).astype(np.int64))

    def write(self, key: str, codes_KT: Tensor) -> None:
        """Store (K, T) codes."""
        codes = codes_KT.numpy().astype(CODE_DTYPE)
        with _name_disk_errors(self.folder.parent):
            self.store.write(bytes.fromhex(key), SHAPE.pack(*codes.shape) + codes.tobytes())

    def seal(self) -> None:
        """Turn the logs that this process wrote into packs. Call it after the last write of a series."""
        with _name_disk_errors(self.folder.parent):
            self.store.seal()
            self.hashes.store.seal()
            self.silence.seal()

    def compact(self) -> None:
        """Join small files (see :meth:`PackedStore.compact`)."""
        with _name_disk_errors(self.folder.parent):
            self.store.compact()
            self.hashes.store.compact()
            self.silence.compact()

    def _is_valid(self, payload: bytes) -> bool:
        """Return whether a payload has the right shape and range."""
        if len(payload) < SHAPE.size:
            return False
        codebooks, frames = SHAPE.unpack_from(payload)
        size = SHAPE.size + codebooks * frames * CODE_DTYPE.itemsize
        if codebooks != self.num_codebooks or frames == 0 or len(payload) != size:
            return False
        return bool(_codes(payload).view("<u2").max() < self.codebook_size)  # a negative code is a large one


def _codes(payload: bytes) -> np.ndarray:
    """Return a view of the (K, T) codes in a valid payload."""
    return np.frombuffer(payload, CODE_DTYPE, offset=SHAPE.size).reshape(SHAPE.unpack_from(payload))


def clip_key(clip: Clip, content_sha256: str) -> str:
    """Return the key of a clip: the SHA-256 of its content hash, offset and duration."""
    cut = f"{content_sha256}:{clip.offset!r}:{clip.duration!r}"
    return hashlib.sha256(cut.encode()).hexdigest()


def remember_codec(folder: Path, codec: str, codec_folder: Path) -> None:
    """Copy a codec's configuration to the folder of its codes, for :func:`remembered_codecs`.

    Raises:
        InputError: if the folder is not writable.
    """
    cache = home_path(folder, FLAG) / codec
    with _name_disk_errors(folder):
        cache.mkdir(parents=True, exist_ok=True)
        if not (cache / CODEC_CONFIG).exists():
            write_whole(cache / CODEC_CONFIG, (codec_folder / CODEC_CONFIG).read_bytes())


def remembered_codecs(folder: Path, codec_folder: Path) -> list[str]:
    """Return the identities of the codecs with codes in ``folder`` and the same configuration as ``codec_folder``."""
    wanted = (codec_folder / CODEC_CONFIG).read_bytes()
    found = sorted(home_path(folder, FLAG).glob(f"*/{CODEC_CONFIG}"))
    return [path.parent.name for path in found if path.read_bytes() == wanted]


@contextmanager
def _name_disk_errors(folder: Path) -> Iterator[None]:
    """Turn an ``OSError`` into an ``InputError`` that names the cache. Python names no file when a write fails."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{FLAG} {folder}: cannot be used ({error.strerror}); give a writable folder on a disk with "
            "free space. Its present content stays."
        ) from error
