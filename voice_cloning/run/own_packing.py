"""Training packs a ChatML file by itself: once, and then finds the folder again by the content of file and clips.

One process of those that see the same code cache packs and looks; the others wait, as long as it lives. Either all
processes begin from folders that were found, or all read the file, because they divide its clips among them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import distributed as dist

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.circumstances import home_path
from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.prepared_dataset import PreparedDataset
from boson_multimodal.process_group import Ranks
from boson_multimodal.sample_dataset import SampleDataset
from boson_multimodal.teams import Team, team_that_shares
from voice_cloning.corpora.packed_files import PREPARED, NotPackedError, PackedFile
from voice_cloning.corpora.packing_jobs import PackSettings
from voice_cloning.training.data import ChatMLData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadFile:
    """A file that was read because no folder was found.

    Attributes:
        packed: the file and its place among the folders.
        key: of the file before it was read; None in a process that does not pack, or if the file cannot be read.
        open: opens a folder of prepared data.
    """

    packed: PackedFile
    key: str | None
    open: Callable[[Path], PreparedDataset]


class OwnPacking:
    """Finds the folders of ChatML files, and makes them. All processes must call each method together.

    Args:
        code_cache_dir: as the flag gives it.
        drop_invalid: whether invalid samples are left out.

    Attributes:
        lines: a message for each folder that was found.
    """

    def __init__(self, code_cache_dir: str, drop_invalid: bool) -> None:
        self._cache, self._problem = Path(code_cache_dir), None
        try:
            self._cache = home_path(code_cache_dir, "--code_cache_dir")
        except InputError as error:  # there is no home: data whose codes are in files can be trained from all the same
            self._problem = str(error)
        self._place = self._cache / PREPARED
        self._drop_invalid = drop_invalid
        self._ranks = Ranks.join() if dist.is_initialized() else Ranks()
        self._team: Team | None = None
        self._read: dict[Path, ReadFile] = {}
        self.lines: list[str] = []

    def find(self, data: ChatMLData) -> PreparedDataset | None:
        """Return the samples of a file from its folder; None if there is none, or not on all machines."""
        packed, key, found = self._packed_file(data), None, None
        if not self._has_team():
            self._read[data.path] = ReadFile(packed, _key_of(packed), data.open)
            return None
        if self._team.rank == 0:
            key = _key_of(packed)
            found = None if key is None else packed.find(key)
        found = self._team.all_results([found])[0]
        if not all(self._ranks.gather(found is not None)):
            self._read[data.path] = ReadFile(packed, key, data.open)
            return None
        dataset = data.open(found.folder)
        where = f"{len(dataset)} samples found as prepared in {found.folder}"
        self.lines.append(f"{where} ({data.path} has not changed)")
        if found.missing_clips:
            self.lines.append(f"{data.path}: {found.missing_clips} clips are missing; their codes are in the folder")
        return dataset

    def pack(self, dataset: SampleDataset) -> SampleDataset:
        """Pack a dataset that was read from a ChatML file, and return the same samples from the folder.

        If the folder cannot be made, a message says it, and the dataset is returned as it is.
        """
        read = self._read.get(dataset.data_path)
        if read is None or not isinstance(dataset, ArabicVoiceCloningDataset):
            return dataset
        problem = self._problem
        try:
            if problem is None:
                self._place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"{self._place}: cannot be created ({error.strerror})"
        if not self._has_team():
            problems = [found for found in self._ranks.gather(problem) if found is not None]
            return self._not_packed(dataset, problems[0])
        folder = None
        if self._team.rank == 0:
            try:
                folder = read.packed.pack(dataset, read.key)
            except NotPackedError as error:
                problem = str(error)
        folder, problem = self._team.all_results([(folder, problem)])[0]
        if folder is None:
            return self._not_packed(dataset, problem)
        if self._ranks.is_main:
            logger.info("%s: packed into %s, found again at the next start", dataset.data_path, folder)
        return read.open(folder)

    def close(self) -> None:
        """Let go of what was read: the codes of large data have large indexes."""
        self._read.clear()

    def _not_packed(self, dataset: SampleDataset, problem: str) -> SampleDataset:
        if self._ranks.is_main if self._team is None else self._team.rank == 0:
            logger.info(
                "%s is not packed: %s. This run trains from the file, and the next start reads it again",
                dataset.data_path,
                problem,
            )
        return dataset

    def _has_team(self) -> bool:
        """Return whether all processes see the folder of folders. Then ``_team`` are those that share it."""
        if self._team is None and all(self._ranks.gather(self._problem is None and self._place.is_dir())):
            self._team = team_that_shares(self._place, is_written=True)
        return self._team is not None

    def _packed_file(self, data: ChatMLData) -> PackedFile:
        settings = PackSettings(
            data_path=data.path,
            model_folder=data.model_folder,
            codes=tuple(map(str, data.source.paths)) if isinstance(data.source, CodesFiles) else (),
            code_cache_dir=self._cache,
            use_delay_pattern=data.use_delay_pattern,
            frames_per_second=data.frames_per_second,
            max_positions=data.max_positions,
            folder=self._place,
            **{name: value for name, value in data.settings.items() if name != "tokenizer"},
        )
        described = {**data.settings, "frames_per_second": data.frames_per_second}
        return PackedFile(self._place, settings, described, self._drop_invalid, data.source)


def _key_of(packed: PackedFile) -> str | None:
    """Return the key of a file; None if it cannot be read, which the reading of its records will say."""
    try:
        return packed.key()
    except OSError:
        return None
