"""Masked layers: a weight and a binary mask of the same shape."""

from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.layers.registry import ReplacedLayer, compressed_layer, replace_modules
from compressbench.models.structure import AnyModule


class MaskedLayer(ReplacedLayer):
    """What masked convolutions and linear layers share. `mask` is a bool buffer of the weight's shape, True = kept."""

    settings: ClassVar[tuple[str, ...]] = ("block",)
    block: int | None
    mask: Tensor

    def add_tensors(self) -> None:
        """A mask of ones."""
        self.register_buffer("mask", torch.ones_like(self.weight, dtype=torch.bool))

    def effective_weight(self) -> Tensor:
        """The weight that the forward pass uses: removed entries are 0 and receive no gradient."""
        return self.weight * self.mask


@compressed_layer
class MaskedConv2d(MaskedLayer, nn.Conv2d):
    """`conv2d(x, weight * mask)`. `block` = N says that the mask is constant on blocks of N output channels (1xN)."""

    kind: ClassVar[str] = "masked_conv2d"

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.effective_weight(), self.bias)


@compressed_layer
class MaskedLinear(MaskedLayer, nn.Linear):
    """`linear(x, weight * mask)`."""

    kind: ClassVar[str] = "masked_linear"

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.effective_weight(), self.bias)


Forms = Mapping[type[nn.Module], type[MaskedConv2d | MaskedLinear]]
MASKED: Forms = {nn.Conv2d: MaskedConv2d, nn.Linear: MaskedLinear}


def mask_layer(module: nn.Module, block: int | None = None, forms: Forms = MASKED) -> MaskedConv2d | MaskedLinear:
    """The masked form of a convolution or linear layer: same parameters (shared, not copied), mask of ones."""
    if type(module) not in forms:
        raise ValueError(f"{type(module).__name__} has no masked form: {' and '.join(f.__name__ for f in forms)} have")
    return forms[type(module)].rebuild(module, {"block": block})


def masked(
    model: AnyModule, names: Collection[str] | None = None, block: int | None = None, forms: Forms = MASKED
) -> AnyModule:
    """Replace convolutions and linear layers (all, or those named) by masked ones, in place; returns the model."""

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        wanted = type(module) in forms and (names is None or name in names)
        return mask_layer(module, block, forms) if wanted else None

    return replace_modules(model, replace)


def masked_layers(model: nn.Module) -> dict[str, MaskedConv2d | MaskedLinear]:
    """The masked layers by name, in forward order of definition."""
    return {name: m for name, m in model.named_modules() if isinstance(m, MaskedConv2d | MaskedLinear)}
