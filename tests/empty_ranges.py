"""Tensors without a range: constants, and one that is nearly all zero."""

import torch
from torch import Tensor

SHAPE = (4, 25, 2, 2)


def nearly_zero() -> Tensor:
    """99 % zeros, the rest normal; the last two filters, or images, are all zero."""
    values = torch.zeros(400)
    values[[3, 77, 120, 190]] = torch.tensor([0.5, -1.5, 2.0, -0.25])
    return values.reshape(SHAPE)


TENSORS = {
    "all zero": torch.zeros(SHAPE),
    "all 0.3": torch.full(SHAPE, 0.3),
    "all -0.3": torch.full(SHAPE, -0.3),
    "all 1e-30": torch.full(SHAPE, 1e-30),
    "99 % zero": nearly_zero(),
}
