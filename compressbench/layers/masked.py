"""Masked layers: a weight and a binary mask of the same shape."""

from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.layers.registry import compressed_layer, replace_modules


class _Masked:
    """What masked convolutions and linear layers share. `mask` is a bool buffer of the weight's shape, True = kept."""

    block: int | None
    weight: Tensor
    mask: Tensor

    def _adopt(self, original: nn.Module, block: int | None) -> Self:
        self.__dict__.update(original.__dict__)
        self._parameters = dict(original._parameters)  # type: ignore[attr-defined]
        self._buffers = dict(original._buffers)  # type: ignore[attr-defined]
        self.block = block
        self._buffers["mask"] = torch.ones_like(original.weight, dtype=torch.bool)  # type: ignore[attr-defined,arg-type]
        return self

    def effective_weight(self) -> Tensor:
        """The weight that the forward pass uses: removed entries are 0 and receive no gradient."""
        return self.weight * self.mask

    def config(self) -> dict[str, Any]:
        return {"block": self.block}

    @classmethod
    def rebuild(cls, original: nn.Module, config: dict[str, Any]) -> nn.Module:
        layer = cls.__new__(cls)
        return layer._adopt(original, config["block"])  # type: ignore[return-value]


@compressed_layer
class MaskedConv2d(_Masked, nn.Conv2d):
    """`conv2d(x, weight * mask)`. `block` = N says that the mask is constant on blocks of N output channels (1xN)."""

    kind: ClassVar[str] = "masked_conv2d"

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.effective_weight(), self.bias)


@compressed_layer
class MaskedLinear(_Masked, nn.Linear):
    """`linear(x, weight * mask)`."""

    kind: ClassVar[str] = "masked_linear"

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.effective_weight(), self.bias)


def mask_layer(module: nn.Module, block: int | None = None) -> nn.Module:
    """The masked form of a convolution or linear layer: same parameters (shared, not copied), mask of ones."""
    forms: dict[type[nn.Module], type[MaskedConv2d | MaskedLinear]] = {nn.Conv2d: MaskedConv2d, nn.Linear: MaskedLinear}
    if type(module) not in forms:
        raise ValueError(f"{type(module).__name__} has no masked form: Conv2d and Linear have")
    return forms[type(module)].rebuild(module, {"block": block})


def masked(model: nn.Module, names: set[str] | None = None, block: int | None = None) -> nn.Module:
    """Replace convolutions and linear layers (all, or those named) by masked ones, in place; returns the model."""

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        wanted = type(module) in (nn.Conv2d, nn.Linear) and (names is None or name in names)
        return mask_layer(module, block) if wanted else None

    return replace_modules(model, replace)


def masked_layers(model: nn.Module) -> dict[str, MaskedConv2d | MaskedLinear]:
    """The masked layers by name, in forward order of definition."""
    return {name: m for name, m in model.named_modules() if isinstance(m, MaskedConv2d | MaskedLinear)}
