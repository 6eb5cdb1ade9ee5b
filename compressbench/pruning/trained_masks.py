"""Masked layers whose removed weights or scores are trained, too; stored models have plain masked layers."""

import torch
from torch import Tensor, nn

from compressbench.layers.masked import Forms, MaskedConv2d, MaskedLayer, MaskedLinear
from compressbench.layers.quantizers import straight_through


class StraightThroughMask(MaskedLayer):
    """W * M with dL/dW = G for kept and removed weights alike, G = dL/d(W * M)."""

    def effective_weight(self) -> Tensor:
        return straight_through(self.weight, self.weight.detach() * self.mask)


class StraightThroughConv2d(StraightThroughMask, MaskedConv2d):
    """The convolution."""


class StraightThroughLinear(StraightThroughMask, MaskedLinear):
    """The linear layer."""


STRAIGHT_THROUGH: Forms = {nn.Conv2d: StraightThroughConv2d, nn.Linear: StraightThroughLinear}


def scored_weight(weight: Tensor, score: Tensor, mask: Tensor) -> Tensor:
    """W * M with d/dW = G * M and d/dscore = G * W, for kept and removed weights alike. All of one shape, the mask bool."""
    return weight * straight_through(score, mask.to(weight))


class ScoredMask(MaskedLayer):
    """A masked layer with a trainable score for every weight, initially 0, by which its mask is chosen.

    by_magnitude: rank by |S|, whose gradient is sign(S) times that of S.
    """

    score: nn.Parameter
    by_magnitude: bool = False

    def add_tensors(self) -> None:
        """The scores."""
        super().add_tensors()
        self.score = nn.Parameter(torch.zeros_like(self.weight))

    def rank(self) -> Tensor:
        """What the entries of the mask are ranked by: S, or |S|."""
        return self.score.abs() if self.by_magnitude else self.score

    def effective_weight(self) -> Tensor:
        return scored_weight(self.weight, self.rank(), self.mask)


class ScoredConv2d(ScoredMask, MaskedConv2d):
    """The convolution."""


class ScoredLinear(ScoredMask, MaskedLinear):
    """The linear layer."""


SCORED: Forms = {nn.Conv2d: ScoredConv2d, nn.Linear: ScoredLinear}


def scored_layers(model: nn.Module) -> dict[str, ScoredMask]:
    """The layers that have scores by name, in order."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, ScoredMask)}


def scores(model: nn.Module) -> dict[str, nn.Parameter]:
    """The scores of every layer that has some, by layer name, in order."""
    return {name: layer.score for name, layer in scored_layers(model).items()}
