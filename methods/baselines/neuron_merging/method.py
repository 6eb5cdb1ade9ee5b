"""Neuron Merging (Kim, Park, Lee & Kim, NeurIPS 2020): each pruned channel is a kept one, scaled. No data."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.data_free.closed_forms import consecutive_pairs, recalibrated
from compressbench.data_free.pruning import DataFreePruningConfig, prune_and_quantize, selection
from compressbench.layers.folding import running_statistics
from compressbench.layers.quantizers import positive
from compressbench.method import Context, Method
from compressbench.models import Network

Scale = Literal["derived", "published"]
Sigma = Literal["deviation", "variance"]


def rescaled(terms: Tensor) -> Tensor:
    """Rows [.., n] moved to 0 .. 1; 0 where all are equal."""
    low, high = terms.amin(-1, keepdim=True), terms.amax(-1, keepdim=True)
    return (terms - low) / torch.where(high > low, high - low, 1)


@torch.no_grad()
def merging(
    weight: Tensor,
    bias: Tensor | None,
    norm: _BatchNorm,
    kept: Tensor,
    *,
    balance: float,
    threshold: float,
    scale: Scale,
    sigma: Sigma,
) -> Tensor:
    """S, float64 [n, N]: column j of a pruned channel has one entry, at the kept channel i of least

        balance c_i + (1 − balance) h_i,     c_i = 1 − cos(W_j, W_i),  s_i = ‖W_j‖/‖W_i‖,  t_i = s_i (γ_i/γ_j)(σ_j/σ_i),
        h_i = |(γ_i/σ_i)(s_i (μ_j − σ_j β_j/γ_j) − μ_i) + β_i| / t_i, rescaled to 0 .. 1 over i

    and none where cos(W_j, W_i) < threshold. Not considered are channels i whose filter is all zero, or where a γ of 0 leaves
    no t_i. The entry is t_i as published, or u_i = s_i γ_j σ_i/(γ_i σ_j), which maps the normalised channel i on j.
    sigma: √(σ² + ε), or, as the authors' code reads it, the variance.
    """
    filters = weight.double().flatten(1)
    gamma, beta = norm.weight.double(), norm.bias.double()
    mean, variance = (statistic.double() for statistic in running_statistics(norm))
    mean = mean if bias is None else mean - bias.double()
    deviation = variance if sigma == "variance" else (variance + norm.eps).sqrt()
    norms = filters.norm(dim=1)
    directions = filters / positive(norms)[:, None]
    removed = torch.ones(len(filters), dtype=torch.bool, device=kept.device).index_fill(0, kept, False).nonzero()[:, 0]

    # rows: the removed channels j; columns: the kept ones i
    cosine = directions[removed] @ directions[kept].T
    s = norms[removed][:, None] / norms[kept]
    slope = gamma / deviation
    published = s * slope[kept] / slope[removed][:, None]
    zero = (mean - beta / slope)[removed][:, None]  # where the batch norm's output is 0
    h = (slope[kept] * (s * zero - mean[kept]) + beta[kept]).abs() / published
    usable = h.isfinite() & (norms > 0)[kept]
    h = torch.where(usable, h, torch.where(usable, h, -torch.inf).amax(1, keepdim=True))  # rescale the others alone
    cost = balance * (1 - cosine) + (1 - balance) * rescaled(h)
    best = torch.where(usable, cost, torch.inf).argmin(1)

    entries = published if scale == "published" else s * slope[removed][:, None] / slope[kept]
    row = torch.arange(len(removed), device=kept.device)
    mixing = selection(len(filters), kept)
    merged = usable[row, best] & (cosine[row, best] >= threshold)
    mixing[best, removed] = torch.where(merged, entries[row, best], 0.0)
    return mixing


class NeuronMerging(Method):
    """Remove filters, add each to its most similar kept one in the next layer, round all weights."""

    class Config(DataFreePruningConfig):
        """Defaults: the authors' choice of channels with the scale that follows from the batch norms."""

        mean_restoration: bool = Field(False, description="not part of Neuron Merging")
        balance: float = Field(0.85, ge=0, le=1, description="lambda: cosine distance against the bias term")
        threshold: float = Field(0.1, ge=-1, le=1, description="least cosine of a merge")
        scale: Scale = Field("derived", description="what is multiplied: published is its inverse up to s squared")
        sigma: Sigma = Field("deviation", description="variance: as the authors' code")

    config: Config

    def check(self, network: Network) -> None:
        consecutive_pairs(network)

    def compress(self, ctx: Context) -> Network:
        model = prune_and_quantize(ctx.dense(), self.config, self.mixing)
        return recalibrated(ctx, model, self.config)

    def mixing(self, layer: nn.Conv2d, norm: _BatchNorm, kept: Tensor, rounded: Tensor) -> Tensor:
        """S of one layer, from the weights before rounding."""
        config = self.config
        return merging(
            layer.weight,
            layer.bias,
            norm,
            kept,
            balance=config.balance,
            threshold=config.threshold,
            scale=config.scale,
            sigma=config.sigma,
        )
