"""What training asks of a dataset, whether its samples come from a ChatML file or from prepared data."""

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.errors import raise_if_any


@dataclass(frozen=True)
class SampleSizes:
    """The sizes of all samples of a dataset: int32 arrays with an entry for each sample.

    Attributes:
        positions: sequence positions, with the audio slots expanded.
        text_positions: text tokens among them.
        text_labels: text tokens with a label.
    """

    positions: np.ndarray
    text_positions: np.ndarray
    text_labels: np.ndarray

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> "SampleSizes":
        """Return the sizes of some samples."""
        chosen = np.asarray(indices)
        return SampleSizes(self.positions[chosen], self.text_positions[chosen], self.text_labels[chosen])


class SampleDataset(Dataset[ChatMLDatasetSample]):
    """Valid samples, in the order of their file.

    Attributes:
        data_path: the file or folder of the samples.
        codec: identity of the codec that made the codes; None if it is that of the run's cache or files of codes.
        sizes: of the samples; before :meth:`encode_missing` with the expected number of code frames of each clip.
        lengths: int32 (samples,) sequence positions; empty before :meth:`encode_missing`.
        num_dropped: how many samples were left out as invalid.
        frames_per_second: code frames per second.
        are_epochs_alike: whether :meth:`of_epoch` returns the same samples for each epoch.
    """

    are_epochs_alike = True
    data_path: Path
    codec: str | None = None
    sizes: SampleSizes
    lengths: np.ndarray
    num_dropped: int
    frames_per_second: float
    _fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.sizes.positions)

    @abstractmethod
    def __getitem__(self, index: int) -> ChatMLDatasetSample: ...

    @property
    def parts(self) -> Sequence["SampleDataset"]:
        """The data sets of which each has a file or folder of its own: this one alone."""
        return (self,)

    def with_parts(self, change: Callable[["SampleDataset"], "SampleDataset"]) -> "SampleDataset":
        """Return the same samples with each of :attr:`parts` replaced by what ``change`` makes of it."""
        return change(self)

    def of_epoch(self, epoch: int) -> "SampleDataset":
        """Return the samples as an epoch, counted from 0, takes them. Here all epochs take them alike."""
        return self

    @property
    def longest(self) -> int:
        """A number of positions that no sample exceeds in any epoch."""
        return int(self.sizes.positions.max())

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """Return the id of a sample."""

    def place(self, index: int) -> str:
        """Return the file or folder of a sample, and its id, for messages."""
        return f"{self.data_path}: {self.sample_id(index)}"

    @abstractmethod
    def number(self, index: int) -> int:
        """Return the number of a sample in the ChatML file, from 0. Invalid samples are counted too."""

    @abstractmethod
    def speaker(self, index: int) -> str | None:
        """Return who speaks the trained clip of a sample; None if the file does not say it."""

    @abstractmethod
    def text_to_speak(self, index: int) -> str:
        """Return the text of the first trained clip of a sample."""

    def fingerprint(self) -> str:
        """Return a hex digest of the ids, tokens, labels and clips of all samples, in order. It is computed once."""
        if self._fingerprint is None:
            self._fingerprint = self._digest()
        return self._fingerprint

    @abstractmethod
    def _digest(self) -> str:
        """Compute :meth:`fingerprint`."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Return the file's name, the numbers of samples, dropped samples and distinct clips, and the clips' hours."""

    @abstractmethod
    def notes(self) -> list[str]:
        """Return a message for each unusual property of the clips."""

    @abstractmethod
    def encode_missing(self, load_codec: Callable[[], HiggsAudioTokenizer]) -> int:
        """Encode the clips that have no codes, then set ``lengths``. Return the number of these clips on all ranks."""

    def sample_ids(self, indices: Sequence[int]) -> str:
        """Return the ids of the given samples, for messages."""
        return ", ".join(map(self.sample_id, indices))


def fingerprint_line(sample_id: str, input_ids: Sequence[int], label_ids: Sequence[int], keys: Sequence[str]) -> bytes:
    """Return what :meth:`SampleDataset.fingerprint` hashes of a sample; ``keys`` are the cache keys of its clips."""
    return json.dumps([sample_id, input_ids, label_ids, keys]).encode()


def refuse_problems(
    data_path: Path | str, samples: int, valid: int, offenders: Sequence[str], drop_invalid: bool
) -> None:
    """Check that all samples of a dataset are valid, or with ``drop_invalid`` that one is.

    Args:
        samples, valid: numbers of samples and of valid samples.
        offenders: the problems, each with the id of its sample.

    Raises:
        InputError: if not. It lists all problems.
    """
    if not valid:
        raise_if_any(f"{data_path}: none of its {samples} samples is valid", offenders)
    if not drop_invalid:
        raise_if_any(f"{data_path}: invalid samples (--drop_invalid leaves them out)", offenders)


def over_limit(positions: int, frames: int, limit: int) -> str:
    """Return the problem of a sample that is longer than ``limit`` positions."""
    return (
        f"is {positions} positions long, {frames} of them audio frames; the limit is {limit} "
        "(--max_positions_per_sample, --max_tokens_per_batch): cut its clips or raise the limit"
    )
