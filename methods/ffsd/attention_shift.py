"""Diversity: the attention of a student is shifted away from that of the one before it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.training.distillation import attention, unit_norm

LEAST_POSITIONS = 3


def shifted_attention(a: Tensor) -> Tensor:
    """τ of attention vectors a [B, P], with m = |a|, h = a/m and θ the floor(P/3)-th smallest entry of h.

    h below θ, m/2 at θ, m - h above it. h has norm 1 and m has not: the published code mixes the two, which is why
    the weight of the diversity loss is small.
    """
    norm, h = a.norm(dim=1, keepdim=True), unit_norm(a)
    threshold = h.sort(dim=1).values[:, a.shape[1] // LEAST_POSITIONS - 1, None]
    return torch.where(h < threshold, h, torch.where(h > threshold, norm - h, norm / 2))


def shift(features: Tensor) -> Tensor:
    """f + (τ - h)·m / c: feature maps [B, c, H, W] with shifted attention, the same increment in all channels."""
    a = attention(features)
    increment = (shifted_attention(a) - unit_norm(a)) * a.norm(dim=1, keepdim=True) / features.shape[1]
    return features + increment.view(-1, 1, *features.shape[2:])


def diversity_loss(student: Tensor, previous: Tensor) -> Tensor:
    """D(x, y) = mean (A(x)/|A(x)| - τ(A(y)))² of feature maps [B, c, H, W]; the target is not normalised."""
    return F.mse_loss(unit_norm(attention(student)), shifted_attention(attention(previous)))
