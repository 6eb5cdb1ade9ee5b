"""The statistics that batch norms see, against those they remember: what data-free methods match."""

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class NormInputs:
    """While the `with` block lasts, records mean and biased variance of the *inputs* of all batch norms, in execution order.

    Enter it after the model was copied: hooks are copied along. Every forward pass adds to `seen`; `loss` empties it.
    """

    def __init__(self, model: nn.Module):
        self.norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not self.norms:
            raise ValueError("the model has no batch normalisation whose statistics could be matched")
        self.seen: list[tuple[_BatchNorm, Tensor, Tensor]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._handles = [norm.register_forward_pre_hook(self._record) for norm in self.norms]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self.seen.clear()

    def _record(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        self.seen.append((norm, mean, variance))  # type: ignore[arg-type]

    def loss(self) -> Tensor:
        """L_BN = (1/L) Σ_l (1/C_l) (‖m_l − M_l‖² + ‖v_l − V_l‖²) of what was recorded since the last call."""
        if not self.seen:
            raise ValueError("no forward pass was recorded; run the model inside the with block first")
        terms = [
            (mean - norm.running_mean).square().mean() + (variance - norm.running_var).square().mean()
            for norm, mean, variance in self.seen
        ]
        self.seen.clear()
        return torch.stack(terms).mean()
