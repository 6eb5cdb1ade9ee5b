"""How the forward pass of a recipe computes: its precision, and whether torch.compile translates it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressbench.config import Recipe
from compressbench.models.structure import AnyModule

Loss = Callable[[AnyModule, Any], Tensor]


def as_configured(recipe: Recipe, loss: Loss[AnyModule], device: torch.device) -> Loss[AnyModule]:
    """The loss, computed as `recipe.precision` and `recipe.compile` say.

    bf16: under torch.autocast, convolutions and products in bfloat16. Weights, gradients of weights, optimizers, validation
    and the stored network stay in float32, and so does the loss itself.

    compile: torch.compile of the loss, and so of all networks that it calls, however it calls them. Validation is not compiled.
    """
    if recipe.compile:
        torch.compiler.reset()  # the limit of translations of a function is for one training
        loss = torch.compile(loss)
    if recipe.precision == "fp32":
        return loss

    def lowered(model: AnyModule, batch: Any) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return loss(model, batch).float()

    return lowered
