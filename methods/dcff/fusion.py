"""The fused convolution: C filters are trained, m convex mixtures of them convolve (arXiv 2107.06916, section 3)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compressbench.models.structure import AnyModule, geometry

EPSILON = 1e-7


@dataclass(frozen=True)
class Schedule:
    """The inverse temperature T(e) of the epochs e = 0 ... epochs - 1.

    paper: T_s + (T_e - T_s) tanh(k e / 2) / tanh(k E / 2), which is the paper's A / (1 + exp(-k e)) + T_s - A / 2
    without its cancellation: T(0) = T_s and T(E) = T_e exactly. With k = 1 it is nearly a step.
    geometric: T_s (T_e / T_s)^(e / (E - 1)), a temperature that really anneals. Not the paper's.
    """

    epochs: int
    start: float = 1.0
    end: float = 1e4
    steepness: float = 1.0
    kind: Literal["paper", "geometric"] = "paper"

    def __call__(self, e: float) -> float:
        if self.kind == "geometric":
            return float(self.start * (self.end / self.start) ** (e / max(1, self.epochs - 1)))
        share = math.tanh(self.steepness * e / 2) / math.tanh(self.steepness * self.epochs / 2)
        return self.start + (self.end - self.start) * share


def distances(weight: Tensor) -> Tensor:
    """D[j, c] = |w_j - w_c|: filters [C, ...] -> float32 [C, C], computed in double, with zeros on the diagonal."""
    filters = weight.detach().flatten(1).double()
    # the distances are those of the centred filters, for which fewer digits cancel where all filters are close
    filters = filters - filters.mean(0)
    return torch.cdist(filters, filters).fill_diagonal_(0).float()


def proxies(distance: Tensor, temperature: float) -> Tensor:
    """P[j, c] = softmax over c of -T D[j, c]: float32 [C, C] -> float32 [C, C]. Underflows to 0 where T D > 103."""
    return torch.softmax(-temperature * distance, dim=1)


def kl_scores(proxy: Tensor) -> Tensor:
    """sum_k mean_c P[j, c] log(P[j, c] / (P[k, c] + 1e-7)): [C, C] -> double [C]; high = unlike the other filters.

    The sum over k needs only the column sums of the second logarithm. A row with a 0 has the score 0 log 0, not a number,
    and that is not repaired: the published selection depends on it.
    """
    p = proxy.double()
    return (p * (len(p) * p.log() - (p + EPSILON).log().sum(0))).mean(1)


def select(score: Tensor, count: int) -> Tensor:
    """The `count` filters of largest score, ascending: [C] -> int64 [count]. Of equals the first ones."""
    return score.argsort(descending=True, stable=True)[:count].sort().values


class FusedConv2d(nn.Conv2d):
    """A convolution of m filters What = P W, bhat = P b, with P [m, C] constant between two calls of `refresh`.

    Args:
        narrow: the convolution with m filters that takes its place when training is over.
        filters: C, how many filters are learned.

    Buffers, all part of the state that a killed run resumes from:
        mixing: P, float32 [m, C]; rows: the selected filters, ascending, int64 [m]; score: double [C].
        finite: bool [2], whether the KL scores were finite at epoch 0, and at any later epoch.
        overlap: the smallest share of `rows` that an epoch >= 1 took over from the one before; distance: the
        smallest distance of two filters at any epoch's start.
    """

    mixing: Tensor
    score: Tensor
    rows: Tensor
    finite: Tensor
    overlap: Tensor
    distance: Tensor

    def __init__(self, narrow: nn.Conv2d, filters: int):
        super().__init__(narrow.in_channels, filters, *geometry(narrow), bias=narrow.bias is not None)
        kept = narrow.out_channels
        self.register_buffer("mixing", torch.eye(kept, filters))
        self.register_buffer("score", torch.zeros(filters, dtype=torch.double))
        self.register_buffer("rows", torch.arange(kept))
        self.register_buffer("finite", torch.zeros(2, dtype=torch.bool))
        self.register_buffer("overlap", torch.ones(()))
        self.register_buffer("distance", torch.tensor(torch.inf))

    def fused(self) -> tuple[Tensor, Tensor | None]:
        """(What [m, Cin', k, k], bhat [m]), differentiable in the C filters."""
        weight = (self.mixing @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
        return weight, None if self.bias is None else self.mixing @ self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self.fused())

    @torch.no_grad()
    def refresh(self, temperature: float, epoch: int, keep_score: bool = False) -> dict[str, float]:
        """New proxies, score, selection and P from the current filters; and statistics of them.

        The score of epoch 0 is stored; a later one only where all its entries are finite. `keep_score`: never.
        """
        distance = distances(self.weight)
        proxy = proxies(distance, temperature)
        score = kl_scores(proxy)
        finite = bool(score.isfinite().all())
        if not keep_score and (epoch == 0 or finite):
            self.score.copy_(score)
        before = self.rows.clone()
        self.rows.copy_(select(self.score, len(before)))
        self.mixing.copy_(proxy[self.rows])
        return self._record(epoch, finite, before, distance)

    def _record(self, epoch: int, finite: bool, before: Tensor, distance: Tensor) -> dict[str, float]:
        nearest = distance.clone().fill_diagonal_(torch.inf).min()
        overlap = torch.isin(self.rows, before).float().mean()
        self.finite[min(epoch, 1)] |= finite
        self.distance.copy_(torch.minimum(self.distance, nearest))
        if epoch > 0:
            self.overlap.copy_(torch.minimum(self.overlap, overlap))
        return {"finite": float(finite), "overlap": overlap.item(), "distance": nearest.item()}


def fused_layers(model: nn.Module) -> Iterator[tuple[str, FusedConv2d]]:
    """(name, layer) of every fused convolution."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, FusedConv2d))


def export(model: nn.Module, narrow: AnyModule) -> AnyModule:
    """`narrow` (plain convolutions of m filters) with the fused filters and everything else of the trained `model`."""
    layers = dict(fused_layers(model))
    state = {n: t for n, t in model.state_dict().items() if n.rpartition(".")[0] not in layers}
    for name, layer in layers.items():
        weight, bias = layer.fused()
        state |= {f"{name}.weight": weight.detach()} | ({} if bias is None else {f"{name}.bias": bias.detach()})
    narrow.load_state_dict(state, strict=True)
    return narrow.train(model.training)
