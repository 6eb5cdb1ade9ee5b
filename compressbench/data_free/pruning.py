"""Removing filters and rounding weights without data or training: one pass, with any reconstruction of the removed channels."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.data_free.closed_forms import (
    FLOAT_BITS,
    DataFreeConfig,
    consecutive_pairs,
    norm_moments,
    quantize_rest,
    relu_moments,
    restore,
    taps,
    uniform,
)
from compressbench.errors import UserError
from compressbench.models import Network
from compressbench.models.structure import submodule
from compressbench.pruning.filters import strongest_filters
from compressbench.pruning.surgery import keep_filters


class DataFreePruningConfig(DataFreeConfig):
    """How many filters go, which, how many bits stay, and whether the means are put right."""

    ratio: float = Field(
        0.3, ge=0, lt=1, description="share of the filters removed in every layer that feeds one other"
    )
    bits: int = Field(6, ge=2, le=32, description="weights of all layers; 32: not quantized")
    per_channel: bool = Field(False, description="a weight range per output channel instead of one per layer")
    scores: Literal["l1", "l2"] = Field("l2", description="the norm by which the filters that stay are largest")
    mean_restoration: bool = Field(
        True, description="undo the shift of the next layer's mean, known from batch norms alone"
    )
    activation_bits: int | None = Field(
        None,
        ge=2,
        le=16,
        description="inputs of all layers but the first, on 0 .. beta + 6 |gamma|; null: not quantized",
    )

    @model_validator(mode="after")
    def _weights_first(self) -> "DataFreePruningConfig":
        if self.activation_bits is not None and self.bits >= FLOAT_BITS:
            raise ValueError("activation_bits needs quantized weights: give bits below 32")
        return self


Rebuild = Callable[[nn.Conv2d, _BatchNorm, Tensor, Tensor], Tensor]
"""(layer, its batch norm, kept filters int64 [n], its weight [N, ...] with those filters rounded) -> S, float64 [n, N].

Column j says how original channel j is rebuilt: X_j ~ sum_i S[i, j] X~_i over the kept, rounded channels.
"""


def kept_count(filters: int, ratio: float) -> int:
    """N − round(ratio N), half to even; UserError when none is left."""
    if (kept := filters - round(ratio * filters)) < 1:
        raise UserError(f"ratio {ratio} leaves none of {filters} filters; choose a lower one.")
    return kept


def selection(count: int, kept: Tensor) -> Tensor:
    """E, float64 [n, N]: 1 where kept channel i is channel j."""
    return torch.eye(count, dtype=torch.float64, device=kept.device)[kept]


@torch.no_grad()
def prune_and_quantize(model: Network, config: DataFreePruningConfig, rebuild: Rebuild) -> Network:
    """A network of fewer filters with rounded weights; `model` is used up.

    Pair after pair, from input to output: the filters that stay, rounded; S from `rebuild`; V'[k, i] = sum_j S[i, j] V[k, j] in
    the layer that reads them, which is rounded only when its own turn is over. Scores are those of the trained filters.
    """
    pairs = consecutive_pairs(model)
    kept = {}
    for pair in pairs:
        weight = model.get_parameter(f"{pair.layer}.weight")
        kept[pair.layer] = strongest_filters(weight, kept_count(len(weight), config.ratio), int(config.scores[1]))
    for pair in pairs:
        layer, norm = submodule(model, pair.layer, nn.Conv2d), submodule(model, pair.norm, _BatchNorm)
        weight, index = model.get_parameter(f"{pair.reader}.weight"), kept[pair.layer]
        rounded = layer.weight.clone()
        rounded[index] = uniform(rounded[index], config.bits, config.per_channel).weight
        mixing = rebuild(layer, norm, index, rounded)
        compensated = torch.zeros_like(weight, dtype=torch.float64)
        compensated[:, index] = torch.einsum("ij,kj...->ki...", mixing, weight.double())
        if config.mean_restoration:
            means, _ = relu_moments(*norm_moments(norm), pair.ceiling)
            restore(model, pair, taps(compensated - weight) @ means)
        weight.copy_(compensated)
    return quantize_rest(keep_filters(model, kept), config.bits, config.per_channel, config.activation_bits)
