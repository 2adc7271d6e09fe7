"""Causal attention of each sample on a CPU in fp32, with its gradient, by blocks of rows.

It is faster than PyTorch's own kernel for CPUs (docs/measured.md). A block of queries meets only the keys up to its
last row, so most of what the causal mask would remove is never computed. The probabilities are computed again in the
backward pass. The queries of all heads that share a key head are the rows of one product::

    s = q k^T      p = softmax(s)      y = p v
    dv = p^T dy    dp = dy v^T         ds = p (dp - sum(dp p))      dq = ds k    dk = ds^T q
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from boson_multimodal.model.higgs_audio.products import product

ROWS_PER_BLOCK = 192


def attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Compute causal attention within each sample, as ``attention.attend``.

    Args:
        query: (N, heads, d) in sample order.
        key, value: (N, key heads, d).
        lengths: the number of rows of each sample.

    Returns:
        (N, heads, d).
    """
    return CausalAttention.apply(query, key, value, lengths)


class CausalAttention(Function):
    """The attention of all samples."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """See :func:`attend_on_cpu`."""
        ctx.save_for_backward(query, key, value)
        ctx.lengths = lengths
        output = torch.empty_like(query)
        for q, k, v, y in zip(*(x.split(lengths) for x in (query, key, value, output)), strict=True):
            for number, (k_Ld, v_Ld) in enumerate(zip(_by_head(k), _by_head(v), strict=True)):
                q_group, y_group = _of_key_head(q, k, number), _of_key_head(y, k, number)
                for rows in _blocks(len(k_Ld)):
                    q_Rd = _rows_of(q_group, rows) * q.shape[-1] ** -0.5
                    p = _probabilities(q_Rd, k_Ld[: rows.stop], rows)
                    y_Rd = product(p, v_Ld[: rows.stop].t())
                    y_group[rows] = y_Rd.unflatten(0, (-1, rows.stop - rows.start)).transpose(0, 1)
        return output

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        tensors = (query, key, value, dy, d_query, d_key, d_value)
        for q, k, v, g, dq, dk, dv in zip(*(x.split(ctx.lengths) for x in tensors), strict=True):
            for number, (k_Ld, v_Ld) in enumerate(zip(_by_head(k), _by_head(v), strict=True)):
                groups = [_of_key_head(x, k, number) for x in (q, g, dq)]
                _add_gradients(*groups, k_Ld, v_Ld, dk[:, number], dv[:, number])
        return d_query, d_key, d_value, None


def _add_gradients(q: Tensor, g: Tensor, dq: Tensor, k_Ld: Tensor, v_Ld: Tensor, dk_Ld: Tensor, dv_Ld: Tensor) -> None:
    """Write the gradient of the queries of one key head, and add those of its keys and values."""
    scale = q.shape[-1] ** -0.5
    for rows in _blocks(len(k_Ld)):
        q_Rd, g_Rd = _rows_of(q, rows) * scale, _rows_of(g, rows)
        seen = slice(0, rows.stop)
        p = _probabilities(q_Rd, k_Ld[seen], rows)
        dv_Ld[seen] += product(p.t(), g_Rd.t())
        dp = product(g_Rd, v_Ld[seen])
        ds = torch.ops.aten._softmax_backward_data(dp, p, -1, dp.dtype)
        dk_Ld[seen] += product(ds.t(), q_Rd.t())
        dq_Rd = product(ds, k_Ld[seen].t()).mul_(scale)
        dq[rows] = dq_Rd.unflatten(0, (-1, rows.stop - rows.start)).transpose(0, 1)


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, ROWS_PER_BLOCK):
        yield slice(start, min(start + ROWS_PER_BLOCK, length))


def _by_head(x_Lhd: Tensor) -> Tensor:
    """Return (heads, L, d), each head in one piece."""
    return x_Lhd.transpose(0, 1).contiguous()


def _of_key_head(x_LHd: Tensor, key: Tensor, number: int) -> Tensor:
    """Return (L, G, d): what belongs to the G query heads that share a key head."""
    group = x_LHd.shape[1] // key.shape[1]
    return x_LHd[:, number * group : (number + 1) * group]


def _rows_of(x_LGd: Tensor, rows: slice) -> Tensor:
    """Return some rows of all heads, one head after the other: (G * rows, d), in one piece."""
    return x_LGd[rows].transpose(0, 1).reshape(-1, x_LGd.shape[-1]).contiguous()


def _probabilities(q_Rd: Tensor, k_Sd: Tensor, rows: slice) -> Tensor:
    """Return (R, S): the probabilities of the keys up to the block's last row; 0 for keys after the query's own."""
    count = rows.stop - rows.start
    scores = product(q_Rd, k_Sd).unflatten(0, (-1, count))
    after = torch.ones(count, count, dtype=torch.bool).triu(1)
    scores[..., rows.start :].masked_fill_(after, float("-inf"))
    return scores.softmax(dim=-1).flatten(0, 1)
