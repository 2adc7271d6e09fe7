"""Matrix products with frozen weights, through the fastest backend that PyTorch brings along.

On a CPU in fp32, oneDNN's products were twice as fast as those of the default backend (docs/measured.md). PyTorch takes
oneDNN for linear layers only in lower precision, so it is called by the operator that torch.compile uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_onednn = torch.backends.mkldnn.is_available()


@contextmanager
def default_products() -> Iterator[None]:
    """Take the default backend inside the block, to compare with programs that use no other."""
    global _onednn
    before, _onednn = _onednn, False
    try:
        yield
    finally:
        _onednn = before


def product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """Return ``x @ weight.T``, (N, O). The weight may be a transposed view."""
    if _takes_onednn(x_NI, weight_OI):
        return torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, None, "none", [], "")
    return x_NI @ weight_OI.t()


def product_plus(x_NI: Tensor, weight_OI: Tensor, addend_NO: Tensor, out_NO: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + addend``, (N, O), in ``out`` if it is given, which may be the addend."""
    if _takes_onednn(x_NI, weight_OI):  # the operator has no ``out``
        y = torch.ops.mkldnn._linear_pointwise.binary(x_NI, addend_NO, weight_OI, None, "add")
        return y if out_NO is None else out_NO.copy_(y)
    return torch.addmm(addend_NO, x_NI, weight_OI.t(), out=out_NO)


def add_product(total_NO: Tensor, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """Return ``total + x @ weight.T``, (N, O). The total may be overwritten."""
    if _takes_onednn(x_NI, weight_OI):
        return product_plus(x_NI, weight_OI, total_NO)
    return total_NO.addmm_(x_NI, weight_OI.t())


def add_scaled_product(total_NO: Tensor, x_NI: Tensor, weight_OI: Tensor, scale: float) -> None:
    """Add ``scale * x @ weight.T`` to a total, which may be some columns of a matrix."""
    if _takes_onednn(x_NI, weight_OI):
        total_NO.add_(product(x_NI, weight_OI), alpha=scale)
    else:
        total_NO.addmm_(x_NI, weight_OI.t(), alpha=scale)


def write_scaled_product(out_NO: Tensor, x_NI: Tensor, weight_OI: Tensor, scale: float) -> None:
    """Write ``scale * x @ weight.T`` into ``out``, which may be some columns of a matrix."""
    if _takes_onednn(x_NI, weight_OI):
        torch.mul(product(x_NI, weight_OI), scale, out=out_NO)
    else:
        torch.addmm(out_NO, x_NI, weight_OI.t(), beta=0, alpha=scale, out=out_NO)


def outer(a_NI: Tensor, b_NJ: Tensor) -> Tensor:
    """Return ``a.T @ b``, (I, J), in fp32."""
    if a_NI.is_cuda and a_NI.dtype != torch.float32:  # without a rounding to bf16 between
        return torch.mm(a_NI.t(), b_NJ, out_dtype=torch.float32)
    return product(a_NI.t(), b_NJ.t()).float()


def add_outer(total_IJ: Tensor, a_NI: Tensor, b_NJ: Tensor, scale: float = 1.0) -> None:
    """Add ``scale * a.T @ b`` to a total in fp32."""
    if not a_NI.is_cuda:
        total_IJ.add_(product(a_NI.t(), b_NJ.t()), alpha=scale)
    elif a_NI.dtype == torch.float32:
        total_IJ.addmm_(a_NI.t(), b_NJ, alpha=scale)
    else:
        torch.addmm(total_IJ, a_NI.t(), b_NJ, out_dtype=torch.float32, alpha=scale, out=total_IJ)


def _takes_onednn(x: Tensor, weight: Tensor) -> bool:
    if not (_onednn and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0):
        return False
    # With any other layout of the weight, oneDNN takes a reference kernel that is a thousand times slower.
    return weight.is_contiguous() or weight.t().is_contiguous()
