"""Convolutions of signs with one-bit weights."""

from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from compressbench.compression.registry import compressed_layer

Encoding = Literal["signs", "ones"]
"""What the bit of a weight means: -1 and +1, or 0 and 1."""
Scaling = Literal["none", "mean"]


class BinaryForm(NamedTuple):
    """y = scale * conv2d(sign(x), W) + bias, sign(x) = +1 where x > 0 and else -1; the padding is 0."""

    bits: Tensor
    """bool [c_out, c_in, k, k]."""
    scale: Tensor
    """float32 [c_out]."""
    bias: Tensor | None
    encoding: Encoding = "signs"


@runtime_checkable
class BinaryLayer(Protocol):
    """A convolution with one-bit weights and activations."""

    def binary_form(self) -> BinaryForm:
        """What it computes in eval mode."""
        ...


class _Sign(torch.autograd.Function):
    """+1 where x > 0, else -1; the gradient passes where |x| <= 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _signs(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return g * (x.abs() <= 1)


def _signs(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def sign_ste(x: Tensor) -> Tensor:
    """The sign with the clipped straight-through gradient (Hubara et al. 2016, BNN)."""
    return _Sign.apply(x) if torch.is_grad_enabled() and x.requires_grad else _signs(x)  # type: ignore[no-any-return]


@compressed_layer
class SignConv2d(nn.Conv2d):
    """conv2d(sign(x), sign(W)), times the mean |W| of each filter (XNOR-Net, arXiv 1603.05279) or alone (BNN).

    The gradient passes both signs where what they are taken of lies in [-1, 1], and the mean as it is.
    """

    kind: ClassVar[str] = "sign_conv2d"
    weight_bits = input_bits = 1
    scaling: Scaling

    @classmethod
    def rebuild(cls, original: nn.Module, config: dict[str, Any]) -> Self:
        """The layer in place of a convolution: same parameters (shared, not copied)."""
        layer = cls.__new__(cls)
        layer.__dict__.update(original.__dict__)
        layer.__dict__.update(config, _parameters=dict(original._parameters), _buffers=dict(original._buffers))
        return layer

    def config(self) -> dict[str, Any]:
        """The scaling."""
        return {"scaling": self.scaling}

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> as the convolution it replaces."""
        y = self._conv_forward(sign_ste(x), sign_ste(self.weight), None) * self._scale().reshape(-1, 1, 1)
        return y if self.bias is None else y + self.bias.reshape(-1, 1, 1)

    def effective_weight(self) -> Tensor:
        """The signs times the scale."""
        return sign_ste(self.weight) * self.weight_step() / 2

    def weight_step(self) -> Tensor:
        """From -scale to scale: [c_out, 1, 1, 1]."""
        return 2 * self._scale().reshape(-1, 1, 1, 1)

    def binary_form(self) -> BinaryForm:
        """Bits of the weight's signs."""
        bias = None if self.bias is None else self.bias.detach()
        return BinaryForm(self.weight.detach() > 0, self._scale().detach(), bias)

    def _scale(self) -> Tensor:
        if self.scaling == "mean":
            return self.weight.abs().flatten(1).mean(1)
        return self.weight.new_ones(len(self.weight))
