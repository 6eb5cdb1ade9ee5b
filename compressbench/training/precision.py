"""The precision of the forward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressbench.config import Recipe
from compressbench.models.structure import AnyModule


def in_precision(
    recipe: Recipe, loss: Callable[[AnyModule, Any], Tensor], device: torch.device
) -> Callable[[AnyModule, Any], Tensor]:
    """The loss as `recipe.precision` says: bf16 computes it under torch.autocast, convolutions and products in bfloat16.

    Weights, gradients of weights, optimisers, validation and the stored network stay in float32, and so does the loss itself.
    """
    if recipe.precision == "fp32":
        return loss

    def lowered(model: AnyModule, batch: Any) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return loss(model, batch).float()

    return lowered
