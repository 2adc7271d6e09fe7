"""Which samples each epoch takes, and how long they are in it."""

from collections.abc import Sequence

import numpy as np
import torch

from boson_multimodal.sample_dataset import SampleDataset
from boson_multimodal.seeds import seed_of
from voice_cloning.training.joined_dataset import JoinedDataset


class EpochSamples:
    """The samples of each epoch. Here every epoch takes each sample once, and with the same length.

    Args:
        lengths: (samples,) positions of each sample.

    Attributes:
        are_alike: whether all epochs take the same samples with the same lengths.
    """

    are_alike = True

    def __init__(self, lengths: np.ndarray) -> None:
        self._lengths = lengths

    def lengths(self, epoch: int) -> np.ndarray:
        """Return (samples,) the positions of every sample in an epoch, also of those that it does not take."""
        return self._lengths

    def taken(self, epoch: int) -> np.ndarray:
        """Return the indices of the samples that an epoch takes, int32. All epochs take the same number of them."""
        return np.arange(len(self._lengths), dtype=np.int32)


class ChangingSamples(EpochSamples):
    """Every epoch takes each sample once, with another length in each epoch.

    Args:
        dataset: the training data, encoded.
    """

    are_alike = False

    def __init__(self, dataset: SampleDataset) -> None:
        super().__init__(dataset.lengths)
        self._dataset = dataset

    def lengths(self, epoch: int) -> np.ndarray:
        """Return (samples,) the positions of every sample in an epoch."""
        return self._dataset.of_epoch(epoch).lengths


class MixedSamples(EpochSamples):
    """The samples of each epoch of a mixture of several data sets, one after the other.

    Each data set has an endless row: all its samples in one random order, then in another one, and so on. An epoch
    takes the next entries of this row, always equally many. So every sample of a data set is taken equally often, or
    once more than others, and what an epoch takes follows from its number alone.

    Args:
        every: epochs that take each sample of all data sets once. They give the lengths.
        sizes: number of samples of each data set.
        per_epoch: how many samples of each of them an epoch takes.
        seed: of the run.
    """

    def __init__(self, every: EpochSamples, sizes: Sequence[int], per_epoch: Sequence[int], seed: int) -> None:
        self._every = every
        self._sizes = tuple(sizes)
        self._per_epoch = tuple(per_epoch)
        self._seed = seed
        whole = (count % size == 0 for count, size in zip(per_epoch, sizes, strict=True))
        self.are_alike = every.are_alike and all(whole)

    def lengths(self, epoch: int) -> np.ndarray:
        """Return (samples,) the positions of every sample in an epoch, also of those that it does not take."""
        return self._every.lengths(epoch)

    def taken(self, epoch: int) -> np.ndarray:
        """Return the indices of the samples that an epoch takes, ascending, int32. A sample may be there twice."""
        times = [self._times_taken(number, epoch) for number in range(len(self._sizes))]
        return np.repeat(np.arange(sum(self._sizes), dtype=np.int32), np.concatenate(times))

    def _times_taken(self, number: int, epoch: int) -> np.ndarray:
        """Return (samples,) how often an epoch takes each sample of a data set."""
        size, count = self._sizes[number], self._per_epoch[number]
        first_pass, before = divmod(epoch * count, size)
        last_pass, within = divmod((epoch + 1) * count, size)
        times = np.full(size, last_pass - first_pass)
        if before:
            times[self._order(number, first_pass)[:before]] -= 1
        if within:
            times[self._order(number, last_pass)[:within]] += 1
        return times

    def _order(self, number: int, number_of_pass: int) -> np.ndarray:
        """Return the order of the samples of a data set in one pass over them."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, number, number_of_pass))
        return torch.randperm(self._sizes[number], generator=generator).numpy()


def epoch_samples(dataset: SampleDataset, seed: int, *, expected: bool = False) -> EpochSamples:
    """Return the samples of each epoch of a run.

    Args:
        dataset: the training data.
        seed: of the run.
        expected: take the lengths that are expected, because clips may not be encoded yet.
    """
    every = EpochSamples(dataset.sizes.positions if expected else dataset.lengths)
    if not dataset.are_epochs_alike:
        every = ChangingSamples(dataset)
    if isinstance(dataset, JoinedDataset):
        return MixedSamples(every, list(map(len, dataset.parts)), dataset.per_epoch, seed)
    return every
