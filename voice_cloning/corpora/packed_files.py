"""Folders of prepared data that training makes of ChatML files, in the code cache, and finds again by content.

    CODE_CACHE/prepared/KEY-FINGERPRINT/                      prepared data (``prepared_folder.py``)
    CODE_CACHE/prepared/KEY-FINGERPRINT.clips.safetensors     the clip files they were made from (``clip_versions.py``)

KEY is a hash of the ChatML file, its place, all settings, and the parts of this program that determine the numbers.
FINGERPRINT is that of the data, so that another recording under the same name makes another folder. Nothing here is
ever removed, except a folder that is damaged, or one that the disk has no room for.
"""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from boson_multimodal.audio_processing.clip_encoding import CodeSource
from boson_multimodal.audio_processing.code_cache import CodeCache
from boson_multimodal.audio_processing.content_hashes import ContentHashes
from boson_multimodal.disk_errors import DiskError, naming_disk_errors
from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.prepared_folder import MANIFEST, ShardTable, read_manifest
from boson_multimodal.whole_files import sync
from boson_multimodal.worker_pool import WorkerPool, available_cores
from voice_cloning.corpora.clip_versions import ClipVersions
from voice_cloning.corpora.pack import is_packed, remove_remains
from voice_cloning.corpora.packing import pack_dataset, packing_key
from voice_cloning.corpora.packing_jobs import PackSettings, forget_sources
from voice_cloning.training.fingerprints import file_fingerprint

PREPARED = "prepared"
"""The folder in the code cache."""
CLIPS_SUFFIX = ".clips.safetensors"
SAMPLES_FOR_POOL = 50_000
"""Fewer samples are packed in this process: others take seconds to start."""
MOST_WORKERS = 8
"""Each takes some hundred MB while it packs, beside the processes that will train."""
TOKENIZER_FILES = "*token*.json"
PROJECT = Path(__file__).resolve().parents[2]
SOURCES = (
    "arabic_voice_cloning_dataset.py",
    "arabic_text/**/*",
    "boson_multimodal/*.py",
    "boson_multimodal/audio_processing/*.py",
    "boson_multimodal/prepared_data/*.py",
    "voice_cloning/corpora/pack*.py",
)
"""What turns records into numbers."""
LIBRARIES = ("tokenizers", "transformers")


@dataclass(frozen=True)
class FoundFolder:
    """A folder whose file and clips have not changed.

    Attributes:
        folder: of the prepared data.
        missing_clips: the number of clips whose files are missing.
    """

    folder: Path
    missing_clips: int


@dataclass(frozen=True)
class PackedFile:
    """A ChatML file, and its place among the folders.

    Attributes:
        place: the folder of all folders.
        settings: of the packing, without folder and key.
        described: the settings that the manifest holds.
        drop_invalid: whether invalid samples are left out.
        source: of the codes.
    """

    place: Path
    settings: PackSettings
    described: dict[str, Any]
    drop_invalid: bool
    source: CodeSource

    def key(self) -> str:
        """Return a hash of the file, its place and all that determines the numbers.

        Raises:
            OSError: if the file cannot be read.
        """
        path = self.settings.data_path
        content = packing_key(self.settings, self.described, self.drop_invalid)
        times = [Path(codes).stat().st_mtime_ns for codes in self.settings.codes]
        tokenizer = [file_fingerprint(found) for found in sorted(self.settings.model_folder.glob(TOKENIZER_FILES))]
        facts = [content, str(path.absolute()), times, tokenizer, program_digest()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def find(self, key: str) -> FoundFolder | None:
        """Return the folder of the file with this key, if its clips have not changed either."""
        for record in sorted(self.place.glob(f"{key}-*{CLIPS_SUFFIX}")):
            folder = record.with_name(record.name.removesuffix(CLIPS_SUFFIX))
            try:
                require_whole(folder)
                versions = ClipVersions.read(record)
            except InputError:  # damaged: it is made again
                continue
            if (now := versions.now(self._hashes)) is None:
                continue
            if (now.facts != versions.facts).any():
                with suppress(OSError, InputError):  # a read-only or full cache: the next start reads these files again
                    now.write(record)
                    self.source.seal()  # the hashes of these files
            return FoundFolder(folder, now.missing_clips)
        return None

    def pack(self, dataset: ArabicVoiceCloningDataset, key: str) -> Path:
        """Pack a dataset of the file, whose clips are encoded. Return the folder, which may have been there before.

        Args:
            dataset: what was read of the file.
            key: of the file before it was read.

        Raises:
            NotPackedError: if the file or a clip has changed meanwhile, or the disk is full or read-only. What was
                written is removed then.
        """
        path, folder = self.settings.data_path, self.place / f"{key}-{dataset.fingerprint()}"
        if self.key() != key:
            raise NotPackedError(f"{path} has changed since this run read it")
        try:
            with naming_disk_errors(self.place, "Make room there, or give another --code_cache_dir"):
                _remove_damaged(folder)
                if not is_packed(folder, key):
                    self._write(dataset, replace(self.settings, folder=folder, key=key))
                versions = ClipVersions.of(dataset, self._hashes)
                if versions is None:
                    raise NotPackedError(f"a clip of {path} has changed since this run read it")
                versions.write(folder.with_name(folder.name + CLIPS_SUFFIX))
        except DiskError as error:
            if not (folder / MANIFEST).is_file():
                shutil.rmtree(folder, ignore_errors=True)
            raise NotPackedError(str(error)) from error
        return folder

    @property
    def _hashes(self) -> ContentHashes | None:
        """The hashes of clip files; None if the codes come from files and no clip is read."""
        return self.source.hashes if isinstance(self.source, CodeCache) else None

    def _write(self, dataset: ArabicVoiceCloningDataset, settings: PackSettings) -> None:
        for folder in (settings.blocks, settings.shards):
            folder.mkdir(parents=True, exist_ok=True)
        sync(self.place)
        workers = 1 if len(dataset) < SAMPLES_FOR_POOL else min(MOST_WORKERS, available_cores())
        try:
            with WorkerPool(workers) as pool:
                pack_dataset(settings, self.described, dataset, pool)
        except (InputError, FileNotFoundError):
            if not is_packed(settings.folder, settings.key):  # else another process has packed it, and removed the rest
                raise
        finally:
            forget_sources()
        remove_remains(settings.folder, settings.shards)


class NotPackedError(InputError):
    """A file could not be packed. It can be trained from all the same."""


def require_whole(folder: Path) -> None:
    """Raise :class:`InputError` if a folder of prepared data is not whole, or if an index in it is damaged."""
    manifest = read_manifest(folder)
    for name in ("samples", "clips"):
        ShardTable.open(folder, manifest[name])


def _remove_damaged(folder: Path) -> None:
    if (folder / MANIFEST).is_file():
        try:
            require_whole(folder)
        except InputError:
            shutil.rmtree(folder)


@cache
def program_digest() -> str:
    """Return a hash of the source that turns records into numbers, and of the versions of its libraries.

    A later release may read records or texts in another way. Then it packs them anew.
    """
    digest = hashlib.sha256(json.dumps([version(name) for name in LIBRARIES]).encode())
    paths = {path for pattern in SOURCES for path in PROJECT.glob(pattern) if path.is_file() and path.suffix != ".pyc"}
    for path in sorted(paths):
        digest.update(path.relative_to(PROJECT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
