"""A cache of the keys and values of earlier positions, so that the next position need not compute them again."""

from torch import Tensor

FIRST_CAPACITY = 256


class KeyValueCache:
    """The keys and values of a batch. ``HiggsAudioModel.forward`` returns it as ``past_key_values`` and takes it again.

    Every sample has its own part of the cache, starting at row 0. Fast-forward layers store text positions only, so
    their rows are counted separately. The cache is for inference: it is written in place, without gradients.

    Attributes:
        lengths, text_lengths: the number of positions of each sample so far, and of those in fast-forward layers.
        capacity: the number of rows allocated for each sample. It grows when needed.
    """

    def __init__(self, num_layers: int, num_samples: int) -> None:
        self.lengths = (0,) * num_samples
        self.text_lengths = (0,) * num_samples
        self.capacity = 0
        self._keys: list[Tensor | None] = [None] * num_layers
        self._values: list[Tensor | None] = [None] * num_layers

    def reserve(self, length: int) -> None:
        """Make room for ``length`` positions of every sample. If the cache must grow, at least double its capacity."""
        if length <= self.capacity:
            return
        self.capacity = max(length, 2 * self.capacity, FIRST_CAPACITY)
        self._keys = [self._grown(tensor) for tensor in self._keys]
        self._values = [self._grown(tensor) for tensor in self._values]

    def write(self, layer: int, rows_N: Tensor, keys_Nhd: Tensor, values_Nhd: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (N, heads, d) of one layer at flat rows: sample * capacity + position.

        Returns:
            All keys and values of the layer, (B, capacity, heads, d) each. Rows beyond a sample's length are not valid.
        """
        if self._keys[layer] is None:
            shape = (len(self.lengths), self.capacity, *keys_Nhd.shape[1:])
            self._keys[layer], self._values[layer] = keys_Nhd.new_zeros(shape), values_Nhd.new_zeros(shape)
        for store, new in ((self._keys[layer], keys_Nhd), (self._values[layer], values_Nhd)):
            store.view(-1, *new.shape[1:])[rows_N] = new
        return self._keys[layer], self._values[layer]

    def advance(self, lengths: tuple[int, ...], text_lengths: tuple[int, ...]) -> None:
        """Add the new positions to the lengths of the samples, after every layer has written them."""
        self.lengths = tuple(a + b for a, b in zip(self.lengths, lengths, strict=True))
        self.text_lengths = tuple(a + b for a, b in zip(self.text_lengths, text_lengths, strict=True))

    def _grown(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        grown = tensor.new_zeros((tensor.shape[0], self.capacity, *tensor.shape[2:]))
        grown[:, : tensor.shape[1]] = tensor
        return grown
