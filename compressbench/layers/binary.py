"""Convolutions of signs with one-bit weights: base class of all binary methods, baselines, and the stored form."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from compressbench.layers.registry import ReplacedLayer, compressed_layer, replace_module
from compressbench.models.structure import AnyModule, Network

Encoding = Literal["signs", "ones"]
"""What the bit of a weight means: -1 and +1, or 0 and 1."""
Scaling = Literal["none", "mean"]
ScaleGradient = Literal["exact", "printed", "detached"]
EPSILON = 1e-5


class BinaryForm(NamedTuple):
    """y = scale * conv2d(sign(x), W) + bias, sign(x) = +1 where x > 0 and else -1; the padding is 0."""

    bits: Tensor
    """bool [c_out, c_in, k, k]."""
    scale: Tensor
    """float32 [c_out]."""
    bias: Tensor | None
    encoding: Encoding = "signs"
    centred: bool = False
    """The mean of each image is subtracted before the sign."""


@runtime_checkable
class BinaryLayer(Protocol):
    """A convolution with one-bit weights and activations."""

    def binary_form(self) -> BinaryForm:
        """What it computes in eval mode."""
        ...


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return g * slope, None, None


def with_slope(x: Tensor, value: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
    """`value` (shape of x), whose derivative by x is said to be slope(x)."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _WithSlope.apply(x, value, slope(x.detach()))
    return value


def clip_slope(x: Tensor) -> Tensor:
    """The clipped straight-through gradient of a sign (Hubara et al. 2016, BNN): 1[|x| <= 1], bool."""
    return x.abs() <= 1


def triangular_slope(x: Tensor) -> Tensor:
    """The derivative of Bi-Real Net's piecewise quadratic (arXiv 1808.00278): max(0, 2 - 2 |x|)."""
    return (2 - 2 * x.abs()).clamp_min(0)


def _signs(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def sign_ste(x: Tensor) -> Tensor:
    """+1 where x > 0, else -1, with the clipped straight-through gradient."""
    return with_slope(x, _signs(x), clip_slope)


class _StandardisedSign(torch.autograd.Function):
    """sign((x - m) / s), s² = var(x) + ε, per sample: the factor 1 / s only matters for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centred: bool) -> Tensor:
        variance, mean = torch.var_mean(x, (1, 2, 3), correction=min(1, x[0].numel() - 1), keepdim=True)
        ctx.save_for_backward(x, mean, torch.rsqrt(variance + EPSILON))
        ctx.centred = centred
        return torch.sign(x - mean if centred else x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, mean, inverse = ctx.saved_tensors
        deviation, every = x - mean, (1, 2, 3)
        read = deviation if ctx.centred else x
        g = g * triangular_slope(read * inverse)
        change = (g * read).sum(every, keepdim=True) * inverse**3 / _freedom(x)
        if ctx.centred:
            g = g - g.mean(every, keepdim=True)
        return g * inverse - deviation * change, None


def standardised_sign(x: Tensor, centred: bool) -> Tensor:
    """sign of [N, C, H, W] (0 stays 0) with the triangular gradient at x / s, s the deviation of each sample over C, H, W.

    centred: the mean of the sample is subtracted first (SiMaN), or not (ReCU). The gradient passes through mean and deviation.
    """
    return _StandardisedSign.apply(x, centred)


def _freedom(x: Tensor) -> int:
    """Degrees of freedom of the variance over all but the first dimension; 1 for a single value, which deviates by 0."""
    return max(x[0].numel() - 1, 1)


def standardise(weight: Tensor, gain: float = 1.0) -> Tensor:
    """(W - μ) gain / sqrt(v + 1e-5): mean and unbiased variance of each filter; the gradient passes through both."""
    deviation = weight - weight.mean((1, 2, 3), keepdim=True)
    variance = deviation.square().sum((1, 2, 3), keepdim=True) / _freedom(weight)
    return deviation * (gain / torch.sqrt(variance + EPSILON))


class BinaryConv2d(ReplacedLayer, nn.Conv2d):
    """Base: y = scale * conv2d(input_signs(x), weight_signs()) + bias, both of -1 and +1, the padding 0."""

    weight_bits = input_bits = 1
    centred: bool = False

    def input_signs(self, x: Tensor) -> Tensor:
        """[N, C, H, W] of -1 and +1, with their gradient."""
        return _signs(x - self.threshold(x))

    def weight_signs(self) -> Tensor:
        """[c_out, c_in, k, k] of -1 and +1, with their gradient."""
        raise NotImplementedError

    def scale(self) -> Tensor | None:
        """[c_out], None for 1."""
        return None

    def threshold(self, x: Tensor) -> Tensor:
        """What activations are compared with: the mean of each sample [N, 1, 1, 1], or 0."""
        return x.mean((1, 2, 3), keepdim=True) if self.centred else x.new_zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> as the convolution it replaces."""
        y = self._conv_forward(self.input_signs(x), self.weight_signs(), None)
        scale = self.scale()
        if scale is not None:
            y = y * scale.reshape(-1, 1, 1)
        return y if self.bias is None else y + self.bias.reshape(-1, 1, 1)

    def bits(self) -> Tensor:
        """bool [c_out, c_in, k, k]: where the weight is +1."""
        return self.weight_signs().detach() > 0

    def effective_weight(self) -> Tensor:
        """The signs times the scale."""
        return self.weight_signs() * self._scale().reshape(-1, 1, 1, 1)

    def weight_step(self) -> Tensor:
        """From the smaller to the larger value of each filter: [c_out, 1, 1, 1]."""
        return 2 * self._scale().abs().reshape(-1, 1, 1, 1)

    def binary_form(self) -> BinaryForm:
        """Bits of the weight's signs."""
        bias = None if self.bias is None else self.bias.detach()
        return BinaryForm(self.bits(), self._scale().detach(), bias, centred=self.centred)

    def _scale(self) -> Tensor:
        scale = self.scale()
        return self.weight.new_ones(len(self.weight)) if scale is None else scale


@compressed_layer
class SignConv2d(BinaryConv2d):
    """conv2d(sign(x), sign(W)), times the mean |W| of each filter (XNOR-Net, arXiv 1603.05279) or alone (BNN).

    sign(0) is +1 for a weight and, as the kernels have it, -1 for an activation. Both gradients are clipped.
    scale_gradient: what the mean α = mean |W| adds to it, with g that of α sign(W), m weights and 1[.] the clip:
    "exact" α g 1[.] + sign(W) Σ g sign(W) / m, "printed" (as in the paper) g (1/m + α 1[.]), "detached" α g 1[.].
    """

    kind: ClassVar[str] = "sign_conv2d"
    settings: ClassVar[tuple[str, ...]] = ("scaling", "scale_gradient")
    scaling: Scaling
    scale_gradient: ScaleGradient = "exact"

    def input_signs(self, x: Tensor) -> Tensor:
        """+1 where x > 0, else -1."""
        return sign_ste(x)

    def weight_signs(self) -> Tensor:
        """+1 where W >= 0, else -1."""
        return with_slope(self.weight, torch.where(self.weight >= 0, 1.0, -1.0).to(self.weight), self._slope)

    def _slope(self, weight: Tensor) -> Tensor:
        if self.scaling == "none" or self.scale_gradient != "printed":
            return clip_slope(weight)
        alpha = weight.abs().mean((1, 2, 3), keepdim=True)  # the gradient comes multiplied by it
        return clip_slope(weight) + 1 / (weight[0].numel() * alpha.clamp_min(torch.finfo(alpha.dtype).tiny))

    def scale(self) -> Tensor | None:
        """α, with a gradient only where it is exact."""
        if self.scaling == "none":
            return None
        weight = self.weight if self.scale_gradient == "exact" else self.weight.detach()
        return weight.abs().mean((1, 2, 3))


@compressed_layer
class OneBitConv2d(BinaryConv2d):
    """What is left of a binary convolution after training: signs as `weight`, and a scale `alpha` per filter where `scaled`."""

    kind: ClassVar[str] = "one_bit_conv2d"
    settings: ClassVar[tuple[str, ...]] = ("scaled", "centred")
    scaled: bool

    def add_tensors(self) -> None:
        """A scale of 1."""
        self.alpha = nn.Parameter(self.weight.new_ones(len(self.weight))) if self.scaled else None

    def weight_signs(self) -> Tensor:
        """The weight."""
        return self.weight

    def scale(self) -> Tensor | None:
        """alpha."""
        return self.alpha


def binarise(model: Network, convert: Callable[[nn.Module], BinaryConv2d]) -> Network:
    """Convert the convolutions that the network names in `binary_convolutions`, in place; returns the model."""
    for name in model.binary_convolutions():
        replace_module(model, name, convert(model.get_submodule(name)))
    return model


def binary_layers(model: nn.Module) -> dict[str, BinaryConv2d]:
    """The binary convolutions by name, in forward order."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, BinaryConv2d)}


@torch.no_grad()
def one_bit(model: AnyModule) -> AnyModule:
    """The trained model as it is stored: signs in the place of latent weights, in place; returns it.

    The same outputs in eval mode, except where an activation is exactly at its threshold: `ties` counts them.
    """
    for name, layer in binary_layers(model).items():
        scale, signs = layer.scale(), layer.weight_signs().detach()
        stored = OneBitConv2d.rebuild(layer, {"scaled": scale is not None, "centred": layer.centred})
        stored._parameters = {"weight": nn.Parameter(signs.clone()), "bias": layer._parameters["bias"]}
        stored._buffers = {}
        stored.add_tensors()
        if stored.alpha is not None and scale is not None:
            stored.alpha.copy_(scale)
        model.set_submodule(name, stored)
    return model


@torch.no_grad()
def ties(model: nn.Module, images: Tensor) -> int:
    """How many activations that binary convolutions read equal their threshold: one bit cannot hold their sign."""
    found = 0

    def count(layer: BinaryConv2d, inputs: tuple[Tensor, ...]) -> None:
        nonlocal found
        (x,) = inputs
        found += int((x == layer.threshold(x)).sum())

    handles = [layer.register_forward_pre_hook(count) for layer in binary_layers(model).values()]
    try:
        model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
