"""Frozen matrices with LoRA, with gradients by hand: what the fused layers are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from boson_multimodal.model.higgs_audio.products import (
    add_outer,
    add_product,
    add_scaled_product,
    outer,
    product,
    product_plus,
    write_scaled_product,
)
from boson_multimodal.model.higgs_audio.quantised_weights import dequantised, is_quantised
from boson_multimodal.model.higgs_audio.rms_norm import FrozenRMSNorm


class FrozenMatrix:
    """The weights of linear layers that read the same input, one below the other: (O, I).

    Full-precision weights are joined in one storage, into which the parameters become views. Quantised weights stay as
    they are, and are made full for each product.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self._linears = linears
        self._storage: Tensor | None = None
        if is_quantised(linears[0]):
            return
        if len(linears) == 1:
            self._storage = linears[0].weight.data
            return
        self._storage = torch.cat([linear.weight.data for linear in linears])
        for linear, rows in zip(linears, self.rows(self._storage), strict=True):
            linear.weight.data = rows

    def read(self) -> Tensor:
        """Return (O, I) in the type of the computation."""
        if self._storage is not None:
            return self._storage
        if len(self._linears) == 1:
            return dequantised(self._linears[0])
        like = self._linears[0]
        shape = sum(linear.out_features for linear in self._linears), like.in_features
        matrix = torch.empty(shape, dtype=like.compute_dtype, device=like.weight.device)
        for linear, rows in zip(self._linears, self.rows(matrix), strict=True):
            dequantised(linear, out=rows)
        return matrix

    def rows(self, matrix: Tensor) -> Sequence[Tensor]:
        """Return the rows of each layer."""
        return matrix.split([linear.out_features for linear in self._linears])


@dataclass(frozen=True)
class Factors:
    """The LoRA factors of one linear layer.

    Attributes:
        layer: the number of the layer among those that share its input.
        columns: where its output lies among theirs.
        ranks: where its r lie among theirs.
        a, b: the trained parameters, (r, I) and (O, r).
        a_copy, b_copy: the same in the type of the computation.
        scale: of the update.
    """

    layer: int
    columns: slice
    ranks: slice
    a: nn.Parameter
    b: nn.Parameter
    a_copy: Tensor
    b_copy: Tensor
    scale: float


@dataclass(frozen=True)
class NormedRows:
    """Some rows that one norm was applied to.

    Attributes:
        rows: of all rows.
        norm: of these rows.
        x, scale: its input, and the scale of each row.
    """

    rows: slice
    norm: FrozenRMSNorm
    x: Tensor
    scale: Tensor


class AdaptedMatrix:
    """Linear layers that read the same input, with LoRA, as one product::

        x (N, I) ---W (O, I)------------------------> + --> y (N, O)
           |                                          |
           +---A (R, I)---> xa (N, R) ---scale B------+      the B of each layer adds to its own columns

    Args:
        modules: linear layers, or PEFT's LoRA layers around them.

    Attributes:
        factors: of the layers that are adapted.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        linears = [m.get_base_layer() if isinstance(m, LoraLayer) else m for m in modules]
        self._weight = FrozenMatrix(linears)
        like = self._weight.read()
        adapted = [(m, m.active_adapters[0]) for m in modules if isinstance(m, LoraLayer)]
        self._a = like.new_empty(sum(m.r[name] for m, name in adapted), like.shape[1])
        self.factors: list[Factors] = []
        column = rank = 0
        for number, (module, linear) in enumerate(zip(modules, linears, strict=True)):
            if isinstance(module, LoraLayer):
                name = module.active_adapters[0]
                a, b = module.lora_A[name].weight, module.lora_B[name].weight
                columns, ranks = slice(column, column + linear.out_features), slice(rank, rank + len(a))
                copies = self._a[ranks], like.new_empty(b.shape)
                self.factors.append(Factors(number, columns, ranks, a, b, *copies, module.scaling[name]))
                rank += len(a)
            column += linear.out_features

    def forward(self, x: Tensor, xa: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (N, O), and ``xa``, (N, R), which is not computed if it is given."""
        y = product(x, self._weight.read())
        return y, self._add_update(x, y, xa)

    def forward_plus(self, x: Tensor, residual: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``residual`` plus the output, (N, O), in ``out`` if it is given; and ``xa``, (N, R)."""
        y = product_plus(x, self._weight.read(), residual, out)
        return y, self._add_update(x, y)

    def _add_update(self, x: Tensor, y: Tensor, xa: Tensor | None = None) -> Tensor:
        if xa is None:
            xa = product(x, self._a) if self.factors else x.new_empty(len(x), 0)
        for f in self.factors:
            add_scaled_product(y[:, f.columns], xa[:, f.ranks], f.b_copy, f.scale)
        return xa

    def backward_b(self, dys: Sequence[Tensor], xa: Tensor) -> Tensor:
        """Add the gradients of the B factors. Return the gradient of ``xa``, (N, R).

        Args:
            dys: the gradients of the outputs, one for each layer.
        """
        dxa = torch.empty_like(xa)
        for f in self.factors:
            dy = dys[f.layer]
            write_scaled_product(dxa[:, f.ranks], dy, f.b_copy.t(), f.scale)
            add_outer(gradient(f.b).t(), xa[:, f.ranks], dy, f.scale)
        return dxa

    def backward_a(self, dxa: Tensor, x: Tensor) -> None:
        """Add the gradients of the A factors of an input that is not normed."""
        for f in self.factors:
            add_outer(gradient(f.a), dxa[:, f.ranks], x)

    def backward_a_of_normed(self, dxa: Tensor, parts: Sequence[NormedRows]) -> None:
        """Add the gradients of the A factors of a normed input.

        The input is x s w, row by row: s, the row's scale, goes to ``dxa``, and w to the result. So the normed rows
        are not computed again.
        """
        if not self.factors:
            return
        for part in parts:
            scaled = torch.mul(dxa[part.rows], part.scale, out=torch.empty_like(dxa[part.rows]))
            total = outer(scaled, part.x).mul_(part.norm.weight)
            torch._foreach_add_([gradient(f.a) for f in self.factors], [total[f.ranks] for f in self.factors])

    def backward_input(self, dys: Sequence[Tensor], dxa: Tensor) -> Tensor:
        """Return the gradient of x, (N, I)."""
        first, *others = (rows.t() for rows in self._weight.rows(self._weight.read()))
        dx = product(dys[0], first)
        for dy, rows in zip(dys[1:], others, strict=True):
            dx = add_product(dx, dy, rows)
        return add_product(dx, dxa, self._a.t()) if self.factors else dx


def gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter; zeros if it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
