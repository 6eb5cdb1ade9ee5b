"""Quantized models in integer arithmetic: ONNX Runtime's int8 convolutions on the method's own grids."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.layers.binary import BinaryLayer
from compressbench.layers.deployment import deploy, foldable_pairs
from compressbench.layers.folding import scale_and_shift, traced
from compressbench.layers.packing import QuantizedWeight, pack_weight
from compressbench.layers.quantized import QuantizedActivation, QuantizedLayer
from compressbench.layers.quantizers import Grid, positive
from compressbench.layers.registry import replace_modules
from compressbench.layers.replaceable import LINEAR, ZERO_PADDED
from compressbench.models.structure import AnyModule
from compressbench.runtimes.base import Runtime, Skip

LEAST_STEP = 2**-12  # of a channel, over the largest step of its layer


class NoIntegerForm(ValueError):
    """A quantizer whose values are not those of one uint8 tensor with a fixed scale."""


@runtime_checkable
class QuantizesActivations(Protocol):
    """A module that rounds its input to a grid."""

    def grid(self) -> Grid | None:
        """The grid; None where it depends on the input."""
        ...


def integer_network(model: nn.Module) -> nn.Module:
    """`deploy(model)` with its quantizers as ONNX's QuantizeLinear and DequantizeLinear; `NoIntegerForm` where one has none.

    A layer whose input the method leaves in fp32 computes in fp32. One whose input is quantized and whose output is not (before
    a residual sum) runs in int8 on OpenVINO; ONNX Runtime's convolutions that write int32 take several times as long as those
    in fp32, and its others write uint8, so that it runs such a layer in fp32.
    """
    network = without_clamps(deploy(model))
    for convolution, norm in foldable_pairs(network):
        layer = network.get_submodule(convolution)
        if has_codes(layer):
            network.set_submodule(convolution, _WeightLayer(layer, network.get_submodule(norm)))
            network.set_submodule(norm, nn.Identity())
    return replace_modules(network, lambda _, module: _integer_form(module)).eval()


def without_clamps(network: AnyModule) -> AnyModule:
    """Take ReLUs out, in place, that only layers read which round their input to a grid with the same bounds.

    Rounding is monotone and saturates: where 0 goes to the lowest value of the grid, and 6 to the highest, it clamps by
    itself. ONNX Runtime finds that out only where uint8 saturates at the same bound, and would run the layer before in fp32.
    """
    readers: dict[str, list[nn.Module | None]] = {}
    try:
        calls = [node for node in traced(network).nodes if node.op == "call_module"]
    except UserError:  # it branches on values
        return network
    for node in calls:
        readers.setdefault(str(node.target), []).extend(
            network.get_submodule(str(user.target)) if user.op == "call_module" else None for user in node.users
        )

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        return nn.Identity() if all(_clamps_like(module, r) for r in readers.get(name, [None])) else None

    return replace_modules(network, replace)


def _clamps_like(relu: nn.Module, reader: nn.Module | None) -> bool:
    """Whether a ReLU or ReLU6 does nothing before `reader`."""
    if type(relu) not in (nn.ReLU, nn.ReLU6) or not isinstance(reader, QuantizedLayer) or reader.inputs == "none":
        return False
    grid = reader.input_grid()
    low, high = grid.quantize(torch.tensor([0.0, 6.0], device=grid.scale.device)).tolist()
    return low == grid.low and (high == grid.high or type(relu) is nn.ReLU)


def _integer_form(module: nn.Module) -> nn.Module | None:
    if isinstance(module, QuantizesActivations) and getattr(module, "bits", 0) < 32:
        return _Activation(module)
    return _WeightLayer(module) if has_codes(module) else None


def has_codes(module: nn.Module) -> bool:
    """Whether the module multiplies, in a way that the integer form knows, with weights that int8 may hold."""
    known = ZERO_PADDED.fits(module) or LINEAR.fits(module)
    quantized = isinstance(module, QuantizedWeight) and module.weight_bits <= 8
    return known and quantized and not isinstance(module, BinaryLayer)


class OnIntegerNetworks(Runtime):
    """Base of runtimes that run `integer_network`s: list it before the runtime that runs the exported graph."""

    arithmetic = "int8"

    def objection(self, compressed: nn.Module) -> str:
        """Only quantized models are timed."""
        return "" if any(has_codes(layer) for layer in compressed.modules()) else "nothing is quantized"

    @staticmethod
    def network(model: nn.Module) -> nn.Module:
        """With ONNX's quantizers in the place of ours."""
        try:
            return integer_network(model)
        except NoIntegerForm as error:
            raise Skip(str(error)) from error


class _OnGrid(torch.autograd.Function):
    """x rounded to a grid of uint8 codes, at most `high`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, high: Tensor) -> Tensor:
        return scale * ((torch.round(x / scale) + zero_point).clamp(0).minimum(high) - zero_point.float())

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, zero_point: Any, high: Any) -> Any:
        codes = g.op("Min", g.op("QuantizeLinear", x, scale, zero_point), high)
        return g.op("DequantizeLinear", codes, scale, zero_point)


class _Weight(torch.autograd.Function):
    """step * codes, channel by channel."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, step: Tensor) -> Tensor:
        return codes * step.reshape(-1, *[1] * (codes.dim() - 1))

    @staticmethod
    def symbolic(g: Any, codes: Any, step: Any) -> Any:
        return g.op("DequantizeLinear", codes, step, axis_i=0)


class Rounding(nn.Module):
    """x rounded to a grid of at most 256 values, whose codes are 0 to `high`; `NoIntegerForm` where uint8 cannot hold them."""

    scale: Tensor
    zero_point: Tensor
    high: Tensor

    def __init__(self, grid: Grid | None) -> None:
        super().__init__()
        if grid is None:
            raise NoIntegerForm("a gate moves the range of the activations for every image")
        if not (grid.scale.isfinite().all() and grid.zero_point.isfinite().all()):
            raise NoIntegerForm("the range of an activation is not finite")
        zero_point, high = round(float(grid.zero_point)) - grid.low, grid.high - grid.low
        if not 0 <= zero_point <= 255 or high > 255:
            raise NoIntegerForm(f"activations with zero point {zero_point} and {high + 1} levels do not fit uint8")
        self.register_buffer("scale", grid.scale.detach().float().reshape(()))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.uint8))
        self.register_buffer("high", torch.tensor(high, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> same shape, still fp32."""
        return _OnGrid.apply(x, self.scale, self.zero_point, self.high)  # type: ignore[no-any-return,no-untyped-call]


class _Activation(nn.Module):
    """A quantizer, with the ReLU or ReLU6 that IntraQ's contains."""

    def __init__(self, quantizer: QuantizesActivations) -> None:
        super().__init__()
        grid: Any = quantizer.grid()
        self.round = Rounding(grid)
        self.rectifies = isinstance(quantizer, QuantizedActivation)
        ceiling = getattr(quantizer, "ceiling", None)
        # Saturation does the rest, unless the compounding tracker went beyond what the ReLU6 lets through.
        beyond = ceiling is not None and float(grid.scale * (grid.high - grid.zero_point - 0.5)) > ceiling
        self.ceiling = ceiling if beyond else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x) if self.rectifies else x
        return self.round(x if self.ceiling is None else x.clamp(max=self.ceiling))  # type: ignore[no-any-return]


class _WeightLayer(nn.Module):
    """A convolution or linear layer with int8 weights, and the batch norm that follows it in its steps and its bias."""

    bias: Tensor | None

    def __init__(self, layer: Any, norm: Any = None) -> None:
        super().__init__()
        self.product: Callable[..., Tensor] = F.linear
        if isinstance(layer, nn.Conv2d):
            geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
            self.product = lambda x, weight, bias: F.conv2d(x, weight, bias, *geometry)
        self.round = Rounding(layer.input_grid()) if getattr(layer, "inputs", "none") != "none" else None
        scale, bias = torch.ones(len(layer.weight)), layer.bias
        if norm is not None:
            scale, bias = scale_and_shift(norm, bias)
        codes, step = int8_weight(layer, scale)
        self.register_buffer("codes", codes)
        self.register_buffer("step", step)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.round is not None:
            x = self.round(x)
        weight = _Weight.apply(self.codes, self.step)  # type: ignore[no-untyped-call]
        return self.product(x, weight, self.bias)


def int8_weight(layer: QuantizedWeight, scale: Tensor) -> tuple[Tensor, Tensor]:
    """(codes int8, step float32 [channels], positive) with scale * weight = codes * step, for a scale [channels].

    The codes are made as large as int8 allows: a bias is rounded to the product of the steps of weight and activation, which
    four bits alone would make too coarse. A channel of a single value has the code 1, -1 or 0, whatever its step, and one
    that is nearly dead a step at which its bias still fits the 32 bits of the sums.
    """
    try:
        stored = pack_weight(layer)
    except ValueError as error:
        raise NoIntegerForm(str(error)) from error
    q = stored.codes().float()
    step, low, channels = stored.step.float().flatten(), stored.low.flatten(), q.flatten(1)
    single = (q.reshape(len(step), -1) == 0).all(1)  # layer or channel, as the step
    step = torch.where(single & (low != 0), low.abs(), step)
    offset = torch.where(single, low.sign(), low / positive(step))[:, None]
    halves = bool((offset - offset.round()).abs().max() > 0.25)  # DoReFa's grid has no zero
    codes = torch.round((channels + offset) * (2 if halves else 1)) * scale.sign()[:, None]
    step = step.expand(len(codes)) / (2 if halves else 1) * scale.abs()
    smallest, largest = int(codes.min()), int(codes.max())
    if smallest < -128 or largest > 127:
        raise NoIntegerForm(f"weights of {layer.weight_bits} bits with a zero point need more than int8")
    factor = max(127 // max(largest, -smallest, 1), 1)  # -128 stays as it is
    codes, step = codes * factor, torch.where((codes == 0).all(1), 0, step / factor)
    least = LEAST_STEP * positive(step.max())
    codes = torch.where((step < least)[:, None], torch.round(codes * (step / least)[:, None]), codes)
    return codes.to(torch.int8).reshape(q.shape), step.clamp_min(least).contiguous()
