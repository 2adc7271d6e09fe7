"""Which samples each epoch takes, and how long they are in it."""

import numpy as np

from boson_multimodal.sample_dataset import SampleDataset


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


def epoch_samples(dataset: SampleDataset, *, expected: bool = False) -> EpochSamples:
    """Return the samples of each epoch of a run.

    Args:
        dataset: the training data.
        expected: take the lengths that are expected, because clips may not be encoded yet.
    """
    if not dataset.are_epochs_alike:
        return ChangingSamples(dataset)
    return EpochSamples(dataset.sizes.positions if expected else dataset.lengths)
