"""Keys and values of positions that have been computed, so that the next position need not compute them again."""

from torch import Tensor

FIRST_CAPACITY = 256


class KeyValueCache:
    """What ``HiggsAudioModel.forward`` returns as ``past_key_values`` and takes again with the positions that follow.

    Samples of different lengths lie side by side, each from row 0 of its own part. Fast-forward layers hold text
    positions only, so they count rows of their own. For inference: writing is in place and knows no gradient.

    Attributes:
        lengths, text_lengths: positions of each sample so far, and those of them that fast-forward layers hold.
        capacity: rows that each sample has room for; it grows as needed.
    """

    def __init__(self, num_layers: int, num_samples: int) -> None:
        self.lengths = (0,) * num_samples
        self.text_lengths = (0,) * num_samples
        self.capacity = 0
        self._keys: list[Tensor | None] = [None] * num_layers
        self._values: list[Tensor | None] = [None] * num_layers

    def reserve(self, length: int) -> None:
        """Make room for ``length`` positions of every sample, at least doubling what is there."""
        if length <= self.capacity:
            return
        self.capacity = max(length, 2 * self.capacity, FIRST_CAPACITY)
        self._keys = [self._grown(tensor) for tensor in self._keys]
        self._values = [self._grown(tensor) for tensor in self._values]

    def write(self, layer: int, rows_N: Tensor, keys_Nhd: Tensor, values_Nhd: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (N, heads, d) of one layer at flat rows, sample * capacity + position.

        Returns:
            All keys and values of the layer, (B, capacity, heads, d) each; rows beyond a sample's length are zero or
            stale.
        """
        if self._keys[layer] is None:
            shape = (len(self.lengths), self.capacity, *keys_Nhd.shape[1:])
            self._keys[layer], self._values[layer] = keys_Nhd.new_zeros(shape), values_Nhd.new_zeros(shape)
        for store, new in ((self._keys[layer], keys_Nhd), (self._values[layer], values_Nhd)):
            store.view(-1, *new.shape[1:])[rows_N] = new
        return self._keys[layer], self._values[layer]

    def advance(self, lengths: tuple[int, ...], text_lengths: tuple[int, ...]) -> None:
        """Count the new positions of each sample once every layer has written them."""
        self.lengths = tuple(a + b for a, b in zip(self.lengths, lengths, strict=True))
        self.text_lengths = tuple(a + b for a, b in zip(self.text_lengths, text_lengths, strict=True))

    def _grown(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        grown = tensor.new_zeros((tensor.shape[0], self.capacity, *tensor.shape[2:]))
        grown[:, : tensor.shape[1]] = tensor
        return grown
