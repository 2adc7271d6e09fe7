"""RMSNorm with a frozen weight, and its gradient, for code that writes its own backward pass."""

import torch
from torch import Tensor, nn


class FrozenRMSNorm:
    """y = x s w, where s = (mean(x^2) + eps)^-1/2 of each row.

    Args:
        module: transformers' ``LlamaRMSNorm``.

    Attributes:
        weight: w, (D,).
    """

    def __init__(self, module: nn.Module) -> None:
        self.weight = module.weight.data
        self._eps = module.variance_epsilon

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return y, (N, D), and s, (N, 1) in fp32."""
        if x_ND.is_cuda:
            return torch.ops.aten._fused_rms_norm(x_ND, self.weight.shape, self.weight, self._eps)
        wide = x_ND.float()
        mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x_ND.shape[-1])
        scale = mean.add_(self._eps).rsqrt_()
        return (wide * scale).mul_(self.weight).to(x_ND.dtype), scale

    def backward(self, dy_ND: Tensor, x_ND: Tensor, scale_N1: Tensor) -> Tensor:
        """Return dx = s (w dy) - x s^3 mean(x w dy), (N, D)."""
        if x_ND.is_cuda:
            shape, wanted = self.weight.shape, [True, False]
            return torch.ops.aten._fused_rms_norm_backward(dy_ND, x_ND, shape, scale_N1, self.weight, wanted)[0]
        dx, wide = dy_ND * self.weight.float(), x_ND.float()
        along = torch.linalg.vecdot(dx, wide).unsqueeze(-1).mul_(scale_N1**3).div_(x_ND.shape[-1])
        return dx.mul_(scale_N1).addcmul_(wide, along, value=-1).to(x_ND.dtype)
