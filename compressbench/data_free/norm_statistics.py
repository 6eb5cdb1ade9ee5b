"""Statistics of the inputs of batch norms, and their distance to the running statistics, which data-free methods minimise."""

from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.layers.folding import running_statistics


class _Moments(torch.autograd.Function):
    """Mean and biased variance of every channel (dimension 1): a third of the time of `torch.var_mean` and its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        count, rows = x.numel() // x.shape[1], x.flatten(2) if x.dim() > 2 else x[:, :, None]
        mean = rows.sum(2).sum(0) / count
        ctx.save_for_backward(x, mean)
        return mean, (rows - mean[:, None]).square().sum(2).sum(0) / count

    @staticmethod
    def backward(ctx: Any, mean_gradient: Tensor, variance_gradient: Tensor) -> Tensor:
        """∂m/∂x = 1/n and ∂v/∂x = 2 (x − m)/n, per channel one multiplication and one addition."""
        x, mean = ctx.saved_tensors
        count, shape = x.numel() // x.shape[1], [1, -1, *[1] * (x.dim() - 2)]
        slope = 2 * variance_gradient / count
        return torch.addcmul((mean_gradient / count - slope * mean).view(shape), x, slope.view(shape))


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, biased variance) [C] over all dimensions of [N, C, ...] but the second."""
    return _Moments.apply(x)


class NormInputs:
    """While the `with` block lasts, records mean and biased variance of the *inputs* of all batch norms, in execution order.

    Enter it after the model was copied: hooks are copied along. Every forward pass adds to `seen`; `take` and `loss` empty it.
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

    def _record(self, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        self.seen.append((norm, *channel_moments(inputs[0])))

    def take(self) -> list[tuple[_BatchNorm, Tensor, Tensor]]:
        """(batch norm, mean [C_l], biased variance [C_l]) of what was recorded since the last call."""
        if not self.seen:
            raise ValueError("no forward pass was recorded; run the model inside the with block first")
        seen, self.seen = self.seen, []
        return seen

    def loss(self) -> Tensor:
        """L_BN = (1/L) Σ_l (1/C_l) (‖m_l − M_l‖² + ‖v_l − V_l‖²) of what was recorded since the last call."""
        terms = []
        for norm, m, v in self.take():
            mean, variance = running_statistics(norm)
            terms.append(F.mse_loss(m, mean) + F.mse_loss(v, variance))
        return torch.stack(terms).mean()
