"""Simulated-quantized layers: floating-point arithmetic on the values that integers could hold."""

from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.layers.folding import traced
from compressbench.layers.quantizers import (
    Grid,
    Scheme,
    integer_range,
    minmax_range,
    span_fake_quantize,
    span_grid,
    span_parameters,
    straight_through,
)
from compressbench.layers.registry import ActivationQuantizer, ReplacedLayer, compressed_layer, replace_modules
from compressbench.models.structure import AnyModule

Tracker = Literal["plain", "compounding"]
TRACKING_RATE = 0.1


class QuantizedLayer(ReplacedLayer):
    """What quantized convolutions and linear layers share.

    The weight is quantized in one of two ways. `scheme: span` (IntraQ): on the minimum and maximum of the current float
    weight of every output channel, recomputed in every forward pass, gradient straight through. `asymmetric` or `symmetric`:
    on the stored grid, buffers `weight_scale` and `weight_zero_point` ([channels, 1, ...], scalars without `per_channel`).
    With `inputs` set, the input is quantized too, on the stored per-tensor grid `input_scale`, `input_zero_point`.
    `input_bits` is what the multiplications cost, wherever the input was quantized. Biases stay in floating point.
    """

    settings: ClassVar[tuple[str, ...]] = ("weight_bits", "input_bits", "scheme", "per_channel", "inputs")
    weight_scale: Tensor
    weight_zero_point: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    weight_bits: int
    input_bits: int
    scheme: Literal["span", "asymmetric", "symmetric"]
    per_channel: bool
    inputs: Literal["none", "asymmetric", "symmetric", "unsigned"]

    def add_tensors(self) -> None:
        """The stored grids."""
        if self.scheme != "span":
            shape = [self.weight.shape[0], *[1] * (self.weight.dim() - 1)] if self.per_channel else []
            self.register_buffer("weight_scale", self.weight.new_ones(shape))
            self.register_buffer("weight_zero_point", self.weight.new_zeros(shape))
        if self.inputs != "none":
            self.register_buffer("input_scale", self.weight.new_ones(()))
            self.register_buffer("input_zero_point", self.weight.new_zeros(()))

    def config(self) -> dict[str, Any]:
        """The settings, and whether there is a bias: deployment may have added one."""
        return super().config() | {"bias": self.bias is not None}

    @classmethod
    def rebuild(cls, original: nn.Module, config: dict[str, Any]) -> Self:
        """Also with a bias of zeros where the configuration has one and the original none."""
        settings = dict(config)
        with_bias = settings.pop("bias")
        layer = super().rebuild(original, settings)
        if with_bias and layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
        return layer

    def weight_grid(self) -> Grid:
        """The stored grid of the weight (not with scheme span)."""
        return Grid(
            self.weight_scale, self.weight_zero_point, *integer_range(self.weight_bits, self.scheme == "symmetric")
        )

    def weight_step(self) -> Tensor:
        """From one value of the quantized weight to the next: [channels, 1, ...], or a scalar."""
        if self.scheme != "span":
            return self.weight_scale
        return 1 / span_parameters(*minmax_range(self.weight.detach(), per_channel=True), self.weight_bits)[0]

    def effective_weight(self) -> Tensor:
        """The quantized weight that the forward pass uses."""
        if self.scheme == "span":
            return span_fake_quantize(
                self.weight, *minmax_range(self.weight.detach(), per_channel=True), self.weight_bits
            )
        return straight_through(self.weight, self.weight_grid().fake_quantize(self.weight.detach()))

    def input_grid(self) -> Grid:
        """The stored grid of the input (not with inputs none)."""
        return Grid(
            self.input_scale, self.input_zero_point, *integer_range(self.input_bits, self.inputs == "symmetric")
        )

    def effective_input(self, x: Tensor) -> Tensor:
        """The input that the forward pass uses."""
        return x if self.inputs == "none" else straight_through(x, self.input_grid().fake_quantize(x.detach()))


@compressed_layer
class QuantConv2d(QuantizedLayer, nn.Conv2d):
    """Convolution with a quantized weight and, where asked for, a quantized input."""

    kind: ClassVar[str] = "quant_conv2d"

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> as the convolution it replaces."""
        return self._conv_forward(self.effective_input(x), self.effective_weight(), self.bias)


@compressed_layer
class QuantLinear(QuantizedLayer, nn.Linear):
    """Linear layer with a quantized weight and, where asked for, a quantized input."""

    kind: ClassVar[str] = "quant_linear"

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] -> as the linear layer it replaces."""
        return F.linear(self.effective_input(x), self.effective_weight(), self.bias)


class QuantMaskedLayer(QuantizedLayer):
    """What quantized layers share whose removed weights, where the bool buffer `mask` of the weight's shape is False, are 0.

    `block` = N says that the mask is constant on blocks of N output channels (1xN), as in `MaskedLayer`.
    """

    settings: ClassVar[tuple[str, ...]] = (*QuantizedLayer.settings, "block")
    block: int | None
    mask: Tensor

    def add_tensors(self) -> None:
        """The stored grids, and a mask of ones."""
        super().add_tensors()
        self.register_buffer("mask", torch.ones_like(self.weight, dtype=torch.bool))

    def effective_weight(self) -> Tensor:
        """The quantized weight that the forward pass uses."""
        return super().effective_weight() * self.mask


@compressed_layer
class QuantMaskedConv2d(QuantMaskedLayer, QuantConv2d):
    """Convolution with a mask, a quantized weight and, where asked for, a quantized input."""

    kind: ClassVar[str] = "quant_masked_conv2d"


@compressed_layer
class QuantMaskedLinear(QuantMaskedLayer, QuantLinear):
    """Linear layer with a mask, a quantized weight and, where asked for, a quantized input."""

    kind: ClassVar[str] = "quant_masked_linear"


def mask_quantized_layer(
    layer: QuantConv2d | QuantLinear, mask: Tensor, block: int | None = None
) -> QuantMaskedConv2d | QuantMaskedLinear:
    """The masked form of a quantized layer: same parameters and grids (shared, not copied)."""
    cls: Any = {QuantConv2d: QuantMaskedConv2d, QuantLinear: QuantMaskedLinear}[type(layer)]
    masked: QuantMaskedConv2d | QuantMaskedLinear = cls.rebuild(layer, layer.config() | {"block": block})
    masked.load_state_dict({**layer.state_dict(), "mask": mask})
    return masked


def quantize_layer(
    module: nn.Module,
    weight_bits: int,
    input_bits: int,
    scheme: Literal["span"] | Scheme = "span",
    per_channel: bool = True,
    inputs: Literal["none", "asymmetric", "symmetric", "unsigned"] = "none",
) -> QuantConv2d | QuantLinear:
    """The quantized form of a convolution or linear layer: same parameters (shared, not copied)."""
    cls: Any = {nn.Conv2d: QuantConv2d, nn.Linear: QuantLinear}[type(module)]
    config = {
        "weight_bits": weight_bits,
        "input_bits": input_bits,
        "scheme": scheme,
        "per_channel": per_channel,
        "inputs": inputs,
    }
    return cls.rebuild(module, config | {"bias": module.bias is not None})


@compressed_layer
class QuantizedActivation(ActivationQuantizer):
    """ReLU or ReLU6, then IntraQ's quantizer on the tracked range [lo, hi]; gradient straight through the quantizer.

    Buffers, all scalars: lo, hi, and `decay` = 0.9^steps, which the compounding tracker divides by (1 − decay).
    `tracking = True` moves the range with every forward pass, before that pass quantizes.
    """

    kind: ClassVar[str] = "quantized_activation"
    settings: ClassVar[tuple[str, ...]] = ("bits", "tracker", "ceiling")
    lo: Tensor
    hi: Tensor
    decay: Tensor

    def __init__(self, bits: int, tracker: Tracker = "plain", ceiling: float | None = None) -> None:
        super().__init__()
        integer_range(bits, signed=True)  # refuses impossible bits
        self.bits, self.tracker, self.ceiling, self.tracking = bits, tracker, ceiling, False
        for name, value in (("lo", 0.0), ("hi", 0.0), ("decay", 1.0)):
            self.register_buffer(name, torch.tensor(value))

    @torch.no_grad()
    def track(self, x: Tensor) -> None:
        """One step of the exponential average. Compounding divides the *state* by 1 - 0.9^t, a mis-applied bias correction."""
        for bound, value in ((self.lo, x.min()), (self.hi, x.max())):
            bound.lerp_(value, TRACKING_RATE)
        if self.tracker == "compounding":
            self.decay.mul_(1 - TRACKING_RATE)
            for bound in (self.lo, self.hi):
                bound.div_(1 - self.decay)

    def grid(self) -> Grid:
        """The grid on the tracked range."""
        return span_grid(self.lo, self.hi, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> same shape."""
        x = F.relu(x) if self.ceiling is None else F.hardtanh(x, 0.0, self.ceiling)
        if self.tracking:
            self.track(x)
        return span_fake_quantize(x, self.lo, self.hi, self.bits)


def quantize_activation(module: nn.Module, bits: int, tracker: Tracker) -> QuantizedActivation:
    """What replaces a ReLU or ReLU6."""
    return QuantizedActivation(bits, tracker, 6.0 if type(module) is nn.ReLU6 else None)


def track_ranges(model: nn.Module, tracking: bool) -> None:
    """Let the ranges of all quantized activations move, or freeze them."""
    for module in model.modules():
        if isinstance(module, QuantizedActivation):
            module.tracking = tracking


def check_activations(model: nn.Module) -> None:
    """UserError where `insert_quantizers` would leave an activation in float: one that is a function, not a module."""
    if not any(type(m) in (nn.ReLU, nn.ReLU6) for m in model.modules()):
        raise UserError(
            "this method quantizes what an nn.ReLU or nn.ReLU6 leaves, and the network has none; write some."
        )
    functions = (F.relu, F.relu6, torch.relu, "relu", "relu_")
    if any(node.target in functions for node in traced(model).nodes if node.op != "call_module"):
        raise UserError(
            "this method quantizes what an nn.ReLU or nn.ReLU6 leaves, and the network also calls one as a function; write a "
            "module in its place."
        )


def insert_quantizers(
    model: AnyModule,
    weight_bits: int,
    activation_bits: int,
    tracker: Tracker = "plain",
    end_weight_bits: int | None = None,
    end_activation_bits: int | None = None,
) -> AnyModule:
    """Replace, by exact type, every convolution, linear layer, ReLU and ReLU6, in place. Batch norms stay.

    `end_weight_bits` are those of the first and the last weight, `end_activation_bits` of the first and the last activation,
    in the order of the modules; default: as the others. A multiplication reads the bits of the activation before it.
    """
    weights = [name for name, m in model.named_modules() if type(m) in (nn.Conv2d, nn.Linear)]
    activations = [name for name, m in model.named_modules() if type(m) in (nn.ReLU, nn.ReLU6)]
    bits = dict.fromkeys(weights, weight_bits) | dict.fromkeys(activations, activation_bits)
    if end_weight_bits is not None:
        bits |= {weights[0]: end_weight_bits, weights[-1]: end_weight_bits}
    if end_activation_bits is not None and activations:
        bits |= {activations[0]: end_activation_bits, activations[-1]: end_activation_bits}
    arriving = end_activation_bits or activation_bits

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        nonlocal arriving
        if name not in bits:
            return None
        if type(module) in (nn.Conv2d, nn.Linear):
            return quantize_layer(module, bits[name], arriving)
        arriving = bits[name]
        return quantize_activation(module, arriving, tracker)

    return replace_modules(model, replace)
