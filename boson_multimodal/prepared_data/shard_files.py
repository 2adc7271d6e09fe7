"""A shard: an immutable safetensors file of rows, read through a memory map and verified by checksums.

A shard has two kinds of columns. A fixed column is one array with an entry for each row. A ragged column has an array
of its own length in each row. In the file:

    NAME            a fixed column: (rows, ...)
    NAME.values     a ragged column: the arrays of all rows, one after the other
    NAME.starts     int64 (rows + 1,): where each row begins in the values
    NAME.crc32      uint32 (rows,): the CRC-32 of each row's bytes

Everything but ``NAME.values`` is the index. It is small, and it is verified when the shard is opened: the file's
metadata hold its checksum. The values are verified row by row when they are read, so that opening a shard does not read
it. Equal rows make equal files, bit for bit.
"""

import json
import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from boson_multimodal.errors import InputError
from boson_multimodal.whole_files import open_whole

SUFFIX = ".safetensors"
VALUES, STARTS, CHECKSUMS = ".values", ".starts", ".crc32"
"""Endings of the arrays of a ragged column."""
TEXT = "utf-8", "surrogatepass"
"""Texts may hold lone surrogates, as JSON may."""
TYPES = {"I8": "<i1", "U8": "<u1", "I16": "<i2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8", "F32": "<f4"}
"""The types of arrays that a shard may hold, by their names in safetensors."""
INDEX_FIELD = "index_crc32"
"""The metadata of the file. There is one field, because the library writes several in a random order."""


@dataclass(frozen=True)
class Ragged:
    """A ragged column.

    Attributes:
        values: (elements,) the arrays of all rows, one after the other.
        starts: (rows + 1,) where each row begins in ``values``; the last entry is the number of elements.
    """

    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], dtype: np.dtype | type) -> "Ragged":
        """Return the column of arrays of any shape, which are flattened."""
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([row.size for row in rows], out=starts[1:])
        values = np.empty(starts[-1], dtype)
        for row, start in zip(rows, starts.tolist(), strict=False):
            values[start : start + row.size] = row.reshape(-1)
        return cls(values, starts)

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> "Ragged":
        """Return the column of texts."""
        return cls.of([np.frombuffer(text.encode(*TEXT), np.uint8) for text in texts], np.uint8)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> np.ndarray:
        """Return a view of the values of a row."""
        return self.values[self.starts[number] : self.starts[number + 1]]


def write_shard(path: Path, fixed: Mapping[str, np.ndarray], ragged: Mapping[str, Ragged]) -> str:
    """Write a shard. It appears under its name when it is whole and on the disk.

    Returns:
        The checksum of its index, which :class:`Shard` can be asked to expect.

    Raises:
        OSError: if the file cannot be written; its ``filename`` is set.
        ValueError: if the columns do not have the same number of rows.
    """
    arrays = {name: np.ascontiguousarray(column) for name, column in fixed.items()}
    for name, column in ragged.items():
        rows = map(column.row, range(len(column)))
        arrays[name + VALUES] = np.ascontiguousarray(column.values)
        arrays[name + STARTS] = np.ascontiguousarray(column.starts, np.int64)
        arrays[name + CHECKSUMS] = np.fromiter(
            (crc32(np.ascontiguousarray(row)) for row in rows), np.uint32, len(column)
        )
    counts = {name: len(column) for name, column in (*fixed.items(), *ragged.items())}
    if len(set(counts.values())) != 1:
        raise ValueError(f"the columns of a shard have the same number of rows; found {counts}")
    checksum = _index_checksum(arrays)
    with open_whole(path, durable=True) as file:
        file.write(save(arrays, {INDEX_FIELD: checksum}))
    return checksum


class Shard:
    """An open shard. Its index is in memory; its values are views of the mapped file, which processes share.

    Attributes:
        path: the file.
        checksum: of the index.
        fixed: the fixed columns by name.

    Args:
        expected: the checksum that the index must have, as :func:`write_shard` returned it; None takes any.

    Raises:
        InputError: if the file is missing, cut off or not a shard, or if its index is damaged. It names the file.
    """

    def __init__(self, path: Path, expected: str | None = None) -> None:
        self.path = path
        try:
            with safe_open(path, "np") as file:  # the library checks the header and the length of the file
                self.checksum = (file.metadata() or {}).get(INDEX_FIELD, "")
            with path.open("rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: missing, cut off or damaged ({error})") from error
        arrays = self._arrays()
        if self.checksum != _index_checksum(arrays):
            raise InputError(f"{path}: its index is damaged, or it is no shard: the checksum of the index differs")
        if expected not in (None, self.checksum):
            raise InputError(f"{path}: is another shard than the one that was written here: its checksum differs")
        endings = VALUES, STARTS, CHECKSUMS
        self.fixed = {name: array for name, array in arrays.items() if not name.endswith(endings)}
        names = [name.removesuffix(VALUES) for name in arrays if name.endswith(VALUES)]
        self._ragged = {name: Ragged(arrays[name + VALUES], arrays[name + STARTS]) for name in names}
        self._checksums = {name: arrays[name + CHECKSUMS] for name in names}
        self._rows = len(next(iter((*self.fixed.values(), *self._ragged.values()))))
        self.release()
        # Samples are read at random. Without this the system reads megabytes around each one that is not in memory.
        self._mapped.madvise(mmap.MADV_RANDOM)

    def __len__(self) -> int:
        return self._rows

    def release(self) -> None:
        """Unmap the pages that were read. They stay in the system's cache, and views of them stay valid.

        Otherwise the memory of a process that reads at random grows by all that it has read.
        """
        self._mapped.madvise(mmap.MADV_DONTNEED)

    def sizes(self, name: str) -> np.ndarray:
        """Return (rows,) the number of elements of each row of a ragged column."""
        return np.diff(self._ragged[name].starts)

    def read(self, name: str, row: int) -> np.ndarray:
        """Return a read-only view of the values of a row of a ragged column, after verifying them.

        Raises:
            InputError: if they are damaged. It names the file, the row and the column.
        """
        values = self._ragged[name].row(row)
        if crc32(values) != self._checksums[name][row]:
            raise InputError(f"{self.path}: row {row}, {name}: damaged: its checksum differs")
        return values

    def read_text(self, name: str, row: int) -> str:
        """Return the text of a row; see :meth:`read`."""
        return self.read(name, row).tobytes().decode(*TEXT)

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return views of the values, and copies of the index."""
        size = int.from_bytes(self._mapped[:8], "little")
        header = json.loads(self._mapped[8 : 8 + size])
        header.pop("__metadata__", None)
        arrays = {}
        for name, entry in header.items():
            array = np.frombuffer(
                self._mapped, TYPES[entry["dtype"]], math.prod(entry["shape"]), 8 + size + entry["data_offsets"][0]
            ).reshape(entry["shape"])
            arrays[name] = array if name.endswith(VALUES) else array.copy()
        return arrays


def _index_checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the CRC-32 of the index, and of the names and types of all arrays, as 8 hex digits."""
    checksum = 0
    for name in sorted(arrays):
        array = arrays[name]
        checksum = crc32(f"{name} {array.dtype.str} {array.shape};".encode(), checksum)
        if not name.endswith(VALUES):
            checksum = crc32(array, checksum)
    return f"{checksum:08x}"
