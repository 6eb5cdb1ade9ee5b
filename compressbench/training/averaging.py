"""An exponential moving average of the weights."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from compressbench.training.hooks import Hook, State


class WeightAverage(Hook):
    """Keeps average ← decay·average + (1 − decay)·weight for every parameter, from the weights after the first step on.

    `apply` puts the averages in the place of the weights.
    """

    kept: ClassVar[tuple[str, ...]] = ("averages",)

    def __init__(self, optimizer: torch.optim.Optimizer, decay: float) -> None:
        self.optimizer, self.decay = optimizer, decay
        self.averages: list[Tensor] = []

    @torch.no_grad()
    def on_step_end(self, state: State) -> None:
        if not self.averages:
            self.averages = [parameter.detach().clone() for parameter in self._parameters()]
        for average, parameter in zip(self.averages, self._parameters(), strict=True):
            average.lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Replaces every weight by its average."""
        for average, parameter in zip(self.averages, self._parameters(), strict=True):
            parameter.copy_(average)

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
