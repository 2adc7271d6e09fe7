"""Operations of a piece of work on a GPU: how often each is called, how many bytes it moves, how long that may take."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MATRIX_PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "linear")
ATTENTION = ("varlen", "flash")
SKINNY = 64
"""A matrix product is skinny if one of its dimensions is at most this, as those of an adapter are."""


@dataclass(frozen=True)
class GpuModel:
    """A GPU as three figures that it reaches in practice."""

    flops_per_second: float
    bytes_per_second: float
    seconds_per_call: float

    def seconds(self, flops: int, size: int) -> float:
        """Estimate one call of ``flops`` operations that moves ``size`` bytes."""
        return max(flops / self.flops_per_second, size / self.bytes_per_second, self.seconds_per_call)


GPUS = {"H100": GpuModel(650e12, 2.6e12, 2.5e-6), "4090": GpuModel(140e12, 0.88e12, 2.5e-6)}


class OperationCounter(TorchDispatchMode):
    """Counts operations on CUDA tensors while it is entered; views, which move nothing, are left out.

    Attributes:
        calls, moved: how often each operation was called, and the bytes of all its arguments and results; by the
            operation's name and the types of its tensors.
        estimates: seconds on each GPU of ``GPUS``, by kind: elementwise, gemm, skinny gemm, or attention (no estimate).
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = defaultdict(int)
        self.moved: dict[str, int] = defaultdict(int)
        self.estimates: dict[str, dict[str, float]] = {name: defaultdict(float) for name in GPUS}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count it."""
        result = func(*args, **(kwargs or {}))
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        on_gpu = [tensor for tensor in inputs + outputs if tensor.is_cuda]
        if on_gpu and not _is_view(func, inputs, outputs):
            self._count(func, args, on_gpu)
        return result

    def by_bytes(self) -> list[tuple[str, int, int]]:
        """(operation and types, calls, bytes) of each, the largest first."""
        rows = [(name, self.calls[name], size) for name, size in self.moved.items()]
        return sorted(rows, key=lambda row: -row[2])

    def elementwise_bytes(self) -> int:
        """Bytes moved by everything but matrix products."""
        return sum(size for name, size in self.moved.items() if name.split(".")[1] not in MATRIX_PRODUCTS)

    def write(self, path: Path) -> None:
        """Write a line for each operation: calls, gigabytes, name and types."""
        lines = [f"{calls:6d} {size / 1e9:9.3f} GB  {name}\n" for name, calls, size in self.by_bytes()]
        path.write_text("".join(lines), encoding="utf-8")

    def _count(self, func: Callable[..., Any], args: Sequence[Any], tensors: list[Tensor]) -> None:
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        name = f"{func} {'/'.join(dtypes)}"
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.calls[name] += 1
        self.moved[name] += size
        factors, flops, kind = _factors(func, args), 0, "elementwise"
        if factors:
            left, right = factors
            flops = 2 * left.shape[0] * left.shape[1] * right.shape[1]
            kind = "skinny gemm" if min(*left.shape, *right.shape) <= SKINNY else "gemm"
        elif any(part in str(func) for part in ATTENTION):
            kind = "attention"
        for gpu, model in GPUS.items():
            self.estimates[gpu][kind] += 0.0 if kind == "attention" else model.seconds(flops, size)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_view(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether an operation only gives another view of one of its inputs."""
    storages = {_storage(tensor) for tensor in inputs}
    return not func._schema.is_mutable and any(_storage(tensor) in storages for tensor in outputs)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _factors(func: Any, args: Sequence[Any]) -> tuple[Tensor, Tensor] | None:
    """The factors of ``mm`` and ``addmm``, which are the last tensors; None for everything else."""
    if func.overloadpacket not in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
        return None
    left, right = [argument for argument in args if isinstance(argument, Tensor)][-2:]
    return left, right
