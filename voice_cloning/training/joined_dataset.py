"""Several data sets as one, one after the other; and which of them cannot be used together."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, combinations
from typing import Any

import numpy as np

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.dataset_sample import ChatMLDatasetSample
from boson_multimodal.errors import raise_if_any
from boson_multimodal.sample_dataset import SampleDataset, SampleSizes
from voice_cloning.training.mixtures import GIVEN_ONCE, samples_of_epoch, share_words


class JoinedDataset(SampleDataset):
    """The samples of several data sets: those of the first, then those of the second, and so on.

    It has no ``data_path``; each part has one.

    Args:
        parts: the data sets. Their codes are of one codec.
        per_epoch: how many samples of each of them an epoch takes; by default each sample once.

    Attributes:
        parts, per_epoch: the arguments.
    """

    def __init__(self, parts: Sequence[SampleDataset], per_epoch: Sequence[int] | None = None) -> None:
        self._parts = tuple(parts)
        self._ends = list(accumulate(map(len, parts)))
        self.per_epoch = tuple(map(len, parts)) if per_epoch is None else tuple(per_epoch)
        self.frames_per_second = parts[0].frames_per_second
        self.codec = parts[0].codec
        self.are_epochs_alike = all(part.are_epochs_alike for part in parts)
        self.num_dropped = sum(part.num_dropped for part in parts)
        self.sizes = SampleSizes(
            np.concatenate([part.sizes.positions for part in parts]),
            np.concatenate([part.sizes.text_positions for part in parts]),
            np.concatenate([part.sizes.text_labels for part in parts]),
        )
        self.lengths = self._joined_lengths()
        self._view: tuple[int, JoinedDataset] | None = None

    @property
    def parts(self) -> tuple[SampleDataset, ...]:
        """The data sets."""
        return self._parts

    def with_parts(self, change: Callable[[SampleDataset], SampleDataset]) -> "JoinedDataset":
        """Return the same samples with each part replaced by what ``change`` makes of it."""
        return JoinedDataset([change(part) for part in self._parts], self.per_epoch)

    @property
    def longest(self) -> int:
        """A number of positions that no sample exceeds in any epoch."""
        return max(part.longest for part in self._parts)

    def __getitem__(self, index: int) -> ChatMLDatasetSample:
        part, own = self._find(index)
        return part[own]

    def of_epoch(self, epoch: int) -> SampleDataset:
        """Return the samples as an epoch takes them: the parts as it takes them. The last view is kept."""
        if self._view is not None and self._view[0] == epoch:
            return self._view[1]
        parts = [part.of_epoch(epoch) for part in self._parts]
        if all(view is part for view, part in zip(parts, self._parts, strict=True)):
            return self
        view = JoinedDataset(parts, self.per_epoch)
        self._view = epoch, view
        return view

    def sample_id(self, index: int) -> str:
        """Return the id of a sample. Samples of several files may have the same; see :meth:`place`."""
        part, own = self._find(index)
        return part.sample_id(own)

    def place(self, index: int) -> str:
        """Return the file or folder of a sample, and its id."""
        part, own = self._find(index)
        return part.place(own)

    def sample_ids(self, indices: Sequence[int]) -> str:
        """Return the file or folder and the id of each of the given samples, for messages."""
        return ", ".join(map(self.place, indices))

    def number(self, index: int) -> int:
        """Return the number of a sample in its own ChatML file, from 0."""
        part, own = self._find(index)
        return part.number(own)

    def speaker(self, index: int) -> str | None:
        """Return who speaks the trained clip of a sample; None if its file does not say it."""
        part, own = self._find(index)
        return part.speaker(own)

    def text_to_speak(self, index: int) -> str:
        """Return the text of the first trained clip of a sample."""
        part, own = self._find(index)
        return part.text_to_speak(own)

    def _digest(self) -> str:
        """Return a hex digest of the fingerprints of all parts, in order."""
        digest = hashlib.sha256(json.dumps([part.fingerprint() for part in self._parts]).encode())
        return digest.hexdigest()[:16]

    def summary(self) -> dict[str, Any]:
        """Return the names and the sums of all parts, and the summary of each with what an epoch takes of it.

        A clip that several parts use counts in each of them.
        """
        parts = [
            {**part.summary(), "samples_of_epoch": count}
            for part, count in zip(self._parts, self.per_epoch, strict=True)
        ]
        sums = {name: sum(part[name] for part in parts) for name in ("samples", "dropped", "clips", "hours")}
        return {"file": ", ".join(part["file"] for part in parts), **sums, "parts": parts}

    def shares(self) -> list[str]:
        """Return for each part what an epoch takes of it, in words."""
        total = sum(self.per_epoch)
        return [share_words(n, len(part), total) for part, n in zip(self._parts, self.per_epoch, strict=True)]

    def notes(self) -> list[str]:
        """Return a message for each unusual property of the clips of all parts."""
        return [line for part in self._parts for line in part.notes()]

    def encode_missing(self, load_codec: Callable[[], HiggsAudioTokenizer]) -> int:
        """Encode the clips that have no codes, part by part, with one codec, then set ``lengths``.

        Returns:
            The number of these clips on all ranks together. A clip that several parts use counts in each of them.
        """
        load_once = cache(load_codec)
        encoded = sum(part.encode_missing(load_once) for part in self._parts)
        self.lengths = self._joined_lengths()
        return encoded

    def _joined_lengths(self) -> np.ndarray:
        """Return the lengths of all samples; an empty array before those of each part are known."""
        if any(len(part.lengths) != len(part) for part in self._parts):
            return np.zeros(0, np.int32)
        return np.concatenate([part.lengths for part in self._parts])

    def _find(self, index: int) -> tuple[SampleDataset, int]:
        """Return the part that holds a sample, and the index of the sample in it."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return self._parts[number], index - (self._ends[number - 1] if number else 0)


def refuse_other_codecs(datasets: Sequence[SampleDataset], codec_of_source: str | None) -> None:
    """Check that the codes of all data are of one codec. That codec need not be on this machine.

    Args:
        codec_of_source: identity of the codec for data whose codes come from the cache or from files of codes.

    Raises:
        InputError: if they are not. It names the codec of each file and folder.
    """
    found = {
        str(data.data_path): f"of codec {data.codec or codec_of_source}, {data.frames_per_second:g} frames per second"
        for data in datasets
    }
    if len(set(found.values())) > 1:
        lines = [f"{path}: {codes}" for path, codes in found.items()]
        raise_if_any("the codes of the data are not of one codec; encode and pack all of them with the same", lines)


def join_datasets(datasets: Sequence[SampleDataset], weights: Sequence[float] | None) -> SampleDataset:
    """Return several data sets as one. Of one, the data set itself: its epochs take each sample once anyway.

    Args:
        weights: ``--data_weights``.

    Raises:
        InputError: if an epoch would take no sample of one of them.
    """
    if len(datasets) == 1:
        return datasets[0]
    if weights is None:
        return JoinedDataset(datasets)
    paths = [str(data.data_path) for data in datasets]
    return JoinedDataset(datasets, samples_of_epoch(paths, list(map(len, datasets)), weights))


def refuse_same_samples(datasets: Sequence[SampleDataset]) -> None:
    """Check that no two data sets hold the same samples, such as a file and the folder that was made of it.

    Raises:
        InputError: naming both.
    """
    problems = [
        f"{other.data_path}: holds the same samples as {one.data_path}; {GIVEN_ONCE}"
        for one, other in combinations(datasets, 2)
        if np.array_equal(one.sizes.text_positions, other.sizes.text_positions)
        and one.fingerprint() == other.fingerprint()
    ]
    raise_if_any("--data_path: the same data twice", problems)
