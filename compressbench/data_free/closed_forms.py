"""Compression from weights and batch norms alone, shared by the data-free methods.

A trained batch norm says how its output is distributed: mean β and standard deviation |γ| per channel. From there on, moments
are carried through ReLUs and residual sums without any image. All of it is computed in float64.
"""

from dataclasses import dataclass
from operator import add, getitem
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.config import MethodConfig
from compressbench.errors import UserError
from compressbench.layers.folding import convolution_norm_pairs, running_statistics, scale_and_shift, traced
from compressbench.layers.quantized import quantize_layer
from compressbench.layers.quantizers import make_grid, minmax_range
from compressbench.layers.registry import replace_modules
from compressbench.method import Context
from compressbench.models import Network
from compressbench.models.resnet import PadShortcut
from compressbench.models.structure import AnyModule, submodule

FLOAT_BITS = 32
SPAN = 6  # standard deviations that an activation range reaches beyond the mean

WeightLayer = nn.Conv2d | nn.Linear
CEILINGS = {nn.ReLU: None, nn.ReLU6: 6.0}
"""Activation -> the largest value that it gives."""


class DataFreeConfig(MethodConfig):
    """Recalibration on real images, an upper bound for every data-free method."""

    recalibration_batches: int = Field(
        0, ge=0, description="NOT data-free, an upper bound: training batches that recompute all batch-norm statistics"
    )


def recalibrated(ctx: Context, model: AnyModule, config: DataFreeConfig) -> AnyModule:
    """`model`, its statistics recomputed on real images where the configuration asks for it; else no data is touched."""
    batches = config.recalibration_batches
    return ctx.recalibrate(model, batches) if batches else model


# ---- consecutive layers


@dataclass(frozen=True)
class LayerPair:
    """A convolution, its batch norm, (ReLU,) and the only layer that reads it, by name."""

    layer: str
    norm: str
    reader: str
    reader_norm: str | None
    """None where the reader is a classifier."""
    ceiling: float | None = None
    """Where the activation between them ends: 6 of a ReLU6, None of a ReLU."""


def consecutive_pairs(model: Network) -> list[LayerPair]:
    """Every convolution that feeds one other layer through batch norm and ReLU or ReLU6, in forward order.

    These are the inner widths of the architecture (`model.inner_couplings()`): what feeds a sum, a concatenation or two layers
    is not among them. UserError when such a convolution has no batch norm, or when there is none.
    """
    norms = dict(convolution_norm_pairs(model))
    found = []
    for coupling in model.inner_couplings():
        if len(coupling.consumers) > 1 or coupling.followers or coupling.gates or coupling.activation is None:
            continue
        layer, (reader,) = coupling.producer, coupling.consumers
        if layer not in norms:
            raise UserError(f"{layer} has no batch norm, from which a data-free method could know its output.")
        read, written = (model.get_parameter(f"{name}.weight") for name in (reader, layer))
        activation = type(model.get_submodule(coupling.activation))
        if read.shape[1] == len(written) and activation in CEILINGS:
            found.append(LayerPair(layer, norms[layer], reader, norms.get(reader), CEILINGS[activation]))
    if not found:
        raise UserError(
            "this network has no two layers with only a batch norm and a ReLU between; choose another model."
        )
    return found


def folded(weight: Tensor, bias: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """A convolution with the batch norm behind it: rows a_j = (γ_j/s_j) vec(W_j), offsets b_j = β_j + (bias_j − μ_j) γ_j/s_j.

    weight [N, ...] -> float64 [N, M k k] and [N]; s = √(σ² + ε).
    """
    scale, shift = scale_and_shift(norm, bias)
    return scale.double()[:, None] * weight.double().flatten(1), shift.double()


# ---- moments


class Signal(NamedTuple):
    """What is known of an activation, per channel, float64 [C]: mean, variance, and the largest value to expect."""

    mean: Tensor
    variance: Tensor
    high: Tensor


def relu_moments(mean: Tensor, std: Tensor, ceiling: float | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance of max(0, y), y ~ N(mean, std²): the clipped normal. std ≥ 0; at 0 y is a constant.

    With z = mean/std: E = mean Φ(z) + std φ(z), E² = (mean² + std²) Φ(z) + mean std φ(z). With a ceiling c, of
    min(c, max(0, y)): what lies above is taken off, E − E₊ and E² − E²₊ − 2c E₊ with the moments ₊ of max(0, y − c).
    """
    first, second = _raw_moments(mean, std)
    if ceiling is not None:
        above = _raw_moments(mean - ceiling, std)
        first, second = first - above[0], second - above[1] - 2 * ceiling * above[0]
    return first, (second - first.square()).clamp_min(0)


def _raw_moments(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """First and second moment of max(0, y)."""
    z = mean / std.clamp_min(torch.finfo(std.dtype).tiny)
    cumulative = torch.special.ndtr(z)
    density = torch.exp(-0.5 * z.square()) / (2 * torch.pi) ** 0.5
    first = mean * cumulative + std * density
    return first, (mean.square() + std.square()) * cumulative + mean * std * density


def norm_moments(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(β, |γ|) in float64: mean and standard deviation of a batch norm's output."""
    return norm.bias.detach().double(), norm.weight.detach().double().abs()


class _Propagation(fx.Interpreter):
    """Runs a network on `Signal`s. What follows a layer without batch norm is unknown: None."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(fx.GraphModule(model, traced(model)))
        self.extra_traceback = False  # which would follow the sentence of a UserError
        self.inputs: dict[str, Signal | None] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signal | None:
        module, (signal,) = self.fetch_attr(target), args
        if isinstance(module, WeightLayer):
            self.inputs[target] = signal
            return None
        if isinstance(module, _BatchNorm):
            mean, std = norm_moments(module)
            return Signal(mean, std.square(), mean + SPAN * std)
        if signal is None or isinstance(module, nn.Identity | nn.MaxPool2d | nn.AdaptiveAvgPool2d | nn.ZeroPad2d):
            return signal
        if type(module) in CEILINGS:
            std, ceiling = signal.variance.sqrt(), CEILINGS[type(module)]
            return Signal(*relu_moments(signal.mean, std, ceiling), (signal.mean + SPAN * std).clamp(0, ceiling))
        if isinstance(module, PadShortcut):
            return Signal(*(module(part[None, :, None, None]).flatten() for part in signal))
        raise UserError(
            f"{target} is a {type(module).__name__}, through which no moments are known; choose another model."
        )

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signal | None:
        if target is add:
            first, second = args  # taken as independent
            return None if first is None or second is None else Signal(*map(torch.add, first, second))
        if target is getitem:
            return args[0]
        raise UserError(f"no moments are known through {target.__name__}; choose another model.")

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signal | None:
        if target != "flatten":
            raise UserError(f"no moments are known through {target}; choose another model.")
        return args[0]


@torch.no_grad()
def input_signals(model: nn.Module) -> dict[str, Signal | None]:
    """What every convolution and linear layer reads, by name, from the batch norms' γ and β; the image as N(0, 1), unbounded.

    Sums add means and variances, as if independent; pooling changes nothing. None behind a layer without batch norm.
    UserError names an operation for which no rule is known.
    """
    channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    image = torch.zeros(channels, dtype=torch.float64, device=next(model.parameters()).device)
    propagation = _Propagation(model)
    propagation.run(Signal(image, image + 1, image + torch.inf), enable_io_processing=False)
    return propagation.inputs


# ---- what a change of the weights does to the next mean


def taps(weight: Tensor) -> Tensor:
    """Sum over kernel positions: [K, N, k, k] or [K, N] -> float64 [K, N]."""
    return weight.double().flatten(2).sum(2) if weight.dim() > 2 else weight.double()


@torch.no_grad()
def move_statistics(norm: _BatchNorm, shift: Tensor, ratio: Tensor | None = None) -> None:
    """What a batch norm remembers, after its input's mean moved by `shift` and its variance became `ratio` times as large; [C].

    σ² + ε, not σ², is multiplied, so that the normalised deviation is as before. A channel that became a constant
    (ratio 0) keeps its variance: dividing by √ε would only magnify the error of the mean.
    """
    mean, variance = running_statistics(norm)
    mean.add_(shift)
    if ratio is not None:
        changed = ((variance + norm.eps) * ratio - norm.eps).clamp_min(0)
        variance.copy_(torch.where(ratio > 0, changed, variance))


@torch.no_grad()
def restore(model: nn.Module, pair: LayerPair, shift: Tensor, ratio: Tensor | None = None) -> None:
    """Undo a change of the reader's output [K] where it is cheapest: in its batch norm, or in the bias of a classifier.

    Without batch norm there is no deviation to restore, and `ratio` is not used. UserError without either.
    """
    reader = model.get_submodule(pair.reader)
    if pair.reader_norm is not None:
        move_statistics(submodule(model, pair.reader_norm, _BatchNorm), shift, ratio)
    elif isinstance(reader.bias, Tensor):
        reader.bias.sub_(shift)
    else:
        raise UserError(
            f"{pair.reader} has neither batch norm nor bias to restore the mean in; use classifier: linear."
        )


# ---- weights on a grid


class Rounded(NamedTuple):
    """A weight on a symmetric grid: step * integers. `step` is a scalar or [channels, 1, ...]; 32 bits: as it was."""

    weight: Tensor
    step: Tensor
    bits: int


def uniform(weight: Tensor, bits: int, per_channel: bool = False) -> Rounded:
    """q = 2^(bits−1) − 1, d = max|W|/q, d·round(W/d), half to even. An all-zero weight, and any at 32 bits, stays as it is."""
    if bits >= FLOAT_BITS:
        return Rounded(weight, weight.new_ones(()), FLOAT_BITS)
    grid = make_grid(*minmax_range(weight, per_channel), bits, "symmetric")
    return Rounded(grid.fake_quantize(weight), grid.scale, bits)


@torch.no_grad()
def store(layer: WeightLayer, rounded: Rounded, input_bits: int = FLOAT_BITS, high: float | None = None) -> nn.Module:
    """`layer` with the rounded weight and its grid, plain at 32 bits; with `high`, it rounds its input on [0, high], too."""
    if rounded.bits < FLOAT_BITS:
        inputs: Literal["none", "unsigned"] = "none" if high is None else "unsigned"
        layer = quantize_layer(layer, rounded.bits, input_bits, "symmetric", rounded.step.dim() > 0, inputs)
        layer.weight_scale.copy_(rounded.step)
        if high is not None:
            layer.input_scale.fill_(max(high, 0) / (2**input_bits - 1) or 1)
    layer.weight.copy_(rounded.weight)
    return layer


def quantize_rest(model: AnyModule, bits: int, per_channel: bool = False, input_bits: int | None = None) -> AnyModule:
    """Round every convolution and linear layer that is not quantized yet, in place; returns the model.

    With `input_bits`, their inputs as well, on [0, the largest β + 6|γ| of a channel]. The first layer reads an image, whose
    range cannot be derived from the network: its input stays in floating point.
    """
    signals = input_signals(model) if input_bits is not None else {}

    def replace(name: str, module: nn.Module) -> nn.Module | None:
        if type(module) is not nn.Conv2d and type(module) is not nn.Linear:
            return None
        rounded, signal = uniform(module.weight.detach(), bits, per_channel), signals.get(name)
        if input_bits is None or signal is None or signal.high.isinf().any():
            return store(module, rounded)
        return store(module, rounded, input_bits, float(signal.high.max()))

    return replace_modules(model, replace)
