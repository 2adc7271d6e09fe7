"""AdamW on the adapter, with all gradients in one flat buffer."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from boson_multimodal.process_group import Ranks
from voice_cloning.training.checkpoints import OPTIMIZER_FILE
from voice_cloning.training.config import DistributedTrainingConfig


class AdapterOptimizer:
    """Sums gradients over processes, clips them, and updates the adapter.

    The constructor copies the parameters of rank 0 to all processes.

    Args:
        parameters: the parameters of the model. Frozen parameters are ignored.
        config: settings of AdamW and ``max_grad_norm``.
        ranks: the processes that train together.

    Attributes:
        parameters: the trained parameters.
        gradients: (number of trained weights,) fp32. The gradient of each parameter is a view into this buffer,
            so that ranks sum all gradients in one call.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: DistributedTrainingConfig, ranks: Ranks) -> None:
        self.parameters: list[nn.Parameter] = [p for p in parameters if p.requires_grad]
        self.gradients: Tensor = torch.zeros(sum(p.numel() for p in self.parameters), device=self.parameters[0].device)
        self._ranks = ranks
        self._max_grad_norm = config.max_grad_norm
        start = 0
        for parameter in self.parameters:
            ranks.broadcast(parameter.data)
            parameter.grad = self.gradients[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        self._adamw = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )

    def step(self, learning_rate: float) -> Tensor:
        """Make one update from the gradients that were accumulated, then set them to zero.

        Returns:
            () norm of the gradient before clipping, summed over processes; on the device.
        """
        self._ranks.sum(self.gradients)
        norm = self.gradients.norm()
        if self._max_grad_norm > 0:
            self.gradients.mul_((self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.gradients.zero_()
        return norm

    def save(self, folder: Path) -> None:
        """Write AdamW's state into a checkpoint's folder."""
        # torch's own file would hide the reason for which a write fails.
        with (folder / OPTIMIZER_FILE).open("wb") as file:
            torch.save(self._adamw.state_dict(), file)

    def load(self, checkpoint: Path) -> None:
        """Load AdamW's state from a checkpoint."""
        self._adamw.load_state_dict(
            torch.load(checkpoint / OPTIMIZER_FILE, map_location=self.gradients.device, weights_only=True)
        )
