"""An exponential moving average of the weights."""

import torch

from compressbench.training.hooks import Hook, State


class WeightAverage(Hook):
    """Keeps average ← decay·average + (1 − decay)·weight for every parameter, from the weights after the first step on.

    The averages are part of the optimiser's state, so they survive a resume; `apply` puts them in the place of the weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, decay: float) -> None:
        self.optimizer, self.decay = optimizer, decay

    @torch.no_grad()
    def on_step_end(self, state: State) -> None:
        for parameter in self._parameters():
            own = self.optimizer.state[parameter]
            if "average" not in own:
                own["average"] = parameter.detach().clone()
            own["average"].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Replaces every weight by its average."""
        for parameter in self._parameters():
            parameter.copy_(self.optimizer.state[parameter]["average"])

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p in self.optimizer.state]
