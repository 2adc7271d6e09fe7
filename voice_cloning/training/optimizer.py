"""AdamW on the adapter: weights, gradients and moments each lie in one flat buffer, which one kernel updates."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boson_multimodal.process_group import Ranks
from voice_cloning.training.checkpoints import OPTIMIZER_FILE
from voice_cloning.training.config import DistributedTrainingConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's names of its two moments, which have one entry for each weight."""
WEIGHTS = "weights"
"""The name of the weights among what a checkpoint holds of the device."""


class AdapterOptimizer:
    """Sums gradients over processes, clips them, and updates the adapter.

    The constructor moves each parameter into the flat buffer, where it stays the same ``nn.Parameter`` of its module:
    whoever writes into the parameter writes into the buffer. It also copies the weights of rank 0 to all processes.

    Args:
        parameters: the parameters of the model. Frozen parameters are ignored.
        config: settings of AdamW and ``max_grad_norm``.
        ranks: the processes that train together.
        order: the trained parameters in the order in which they lie in the buffers; by default that of ``parameters``.
            Checkpoints do not depend on it.

    Attributes:
        parameters: the trained parameters, in the order of the buffers.
        values: (number of trained weights,) fp32. Each parameter is a view into this buffer.
        gradients: (number of trained weights,) fp32. The gradient of each parameter is a view into this buffer,
            so that ranks sum all gradients in one call.

    Raises:
        ValueError: if ``order`` does not hold each trained parameter once, or a trained parameter is not fp32.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        config: DistributedTrainingConfig,
        ranks: Ranks,
        order: Sequence[nn.Parameter] | None = None,
    ) -> None:
        trained = [p for p in parameters if p.requires_grad]
        self.parameters: list[nn.Parameter] = trained if order is None else list(order)
        _check_order(trained, self.parameters)
        self.values: Tensor = torch.cat([p.detach().flatten() for p in self.parameters])
        self.gradients: Tensor = torch.zeros_like(self.values)
        self._ranks = ranks
        self._max_grad_norm = config.max_grad_norm
        ranks.wait_for_all()  # loading the model takes longer on some machines
        ranks.broadcast(self.values)
        views = self._views(self.values), self._views(self.gradients)
        for parameter, value, gradient in zip(self.parameters, *views, strict=True):
            parameter.data, parameter.grad = value, gradient
        places = {id(parameter): place for place, parameter in enumerate(self.parameters)}
        self._places = [places[id(parameter)] for parameter in trained]
        self._flat = nn.Parameter(self.values)
        self._flat.grad = self.gradients
        # The fused kernel takes its step from the device, so that no step waits for the device, resumed or not.
        self._adamw = torch.optim.AdamW(
            [self._flat],
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        # AdamW would make the same state in the first step, in whatever holes a forward and backward pass have left.
        self._state: dict[str, Tensor] = {name: torch.zeros_like(self.values) for name in MOMENTS}
        self._state["step"] = torch.zeros((), device=self.values.device)
        self._adamw.state[self._flat] = self._state

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

    @property
    def lasting(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the device, by name: the weights, AdamW's moments and its step."""
        return {WEIGHTS: self.values, **self._state}

    @property
    def settings(self) -> dict[str, Any]:
        """AdamW's settings, with the learning rate of the last step."""
        return dict(self._adamw.state_dict()["param_groups"][0])

    def save(
        self, folder: Path, copied: dict[str, Tensor] | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        """Write AdamW's state into a checkpoint's folder, as AdamW on the model's separate parameters has it.

        Args:
            folder: the folder.
            copied, settings: copies of :attr:`lasting` and :attr:`settings` to be written in their place. With both,
                another thread may call this while training goes on.
        """
        state = self._separate_state(self.lasting if copied is None else copied, settings or self.settings)
        # torch's own file would hide the reason for which a write fails.
        with (folder / OPTIMIZER_FILE).open("wb") as file:
            torch.save(state, file)

    def weights_in(self, copied: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Return the weights in a copy of :attr:`lasting`, by the names of the trained parameters of ``model``."""
        views = {id(p): view for p, view in zip(self.parameters, self._views(copied[WEIGHTS]), strict=True)}
        return {name: views[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in views}

    def load(self, checkpoint: Path) -> None:
        """Load AdamW's state from a checkpoint. The settings of AdamW stay those of the constructor."""
        # To the host first: a copy of the whole state on the device would raise the peak of its memory.
        found = torch.load(checkpoint / OPTIMIZER_FILE, map_location="cpu", weights_only=True)["state"]
        for name in MOMENTS:
            views = self._views(self._state[name])
            for number, place in enumerate(self._places):
                views[place].copy_(found[number][name])
        self._state["step"].copy_(found[0]["step"])

    def broadcast(self) -> None:
        """Copy weights and state of rank 0 to all processes."""
        for tensor in (self.values, *self._state.values()):
            self._ranks.broadcast(tensor)

    def _separate_state(self, lasting: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Any]:
        """Return the ``state_dict`` of AdamW on the separate parameters in the model's order, on the host.

        Each tensor has a storage of its own: releases that update the parameters one by one also count each step apart.
        """
        step = lasting["step"].cpu()
        moments = {name: self._views(lasting[name].cpu()) for name in MOMENTS}
        state = {
            number: {"step": step.clone()} | {name: views[place].clone() for name, views in moments.items()}
            for number, place in enumerate(self._places)
        }
        return {"state": state, "param_groups": [{**settings, "fused": None, "params": list(range(len(state)))}]}

    def _views(self, flat: Tensor) -> list[Tensor]:
        """Return the part of each parameter in a flat buffer, in the buffer's order and in the parameter's shape."""
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]


def _check_order(trained: Sequence[nn.Parameter], order: Sequence[nn.Parameter]) -> None:
    if sorted(map(id, order)) != sorted(map(id, trained)):
        raise ValueError(
            f"the order holds {len(order)} parameters; it must hold each of the {len(trained)} trained ones once"
        )
    dtypes = sorted({str(parameter.dtype) for parameter in trained})
    if dtypes != ["torch.float32"]:
        raise ValueError(f"the trained parameters are {', '.join(dtypes)}; they must all be torch.float32")
