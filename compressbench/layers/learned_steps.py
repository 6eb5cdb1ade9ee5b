"""Quantizers with one trained number per tensor: the step size of LSQ, the clip point of PACT (with DoReFa's weights)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compressbench.accounting import without_macs
from compressbench.layers.quantizers import Grid, integer_range, positive, round_ste
from compressbench.layers.ranged import WeightQuantizedConv2d
from compressbench.layers.registry import ActivationQuantizer, compressed_layer

MINIMUM_STEP = 1e-8
PACT_START = 10.0


def _learned_step_values(v: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    return step * torch.round((v / step).clamp(float(low), float(high)))  # integers break TorchScript's folding


class _LearnedStep(torch.autograd.Function):
    """v̂ = s·round(clip(v/s, low, high)); dv = g inside; ds = factor · Σ g·(round(v/s) − v/s inside, low or high outside)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, step: Tensor, low: int, high: int, factor: float) -> Tensor:
        ctx.save_for_backward(v, step)
        ctx.low, ctx.high, ctx.factor = low, high, factor
        return _learned_step_values(v, step, low, high)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        v, step = ctx.saved_tensors
        scaled = v / step
        inside = (scaled > ctx.low) & (scaled < ctx.high)
        clipped = scaled.clamp(ctx.low, ctx.high)
        dstep = torch.where(inside, torch.round(scaled) - scaled, clipped)
        return g * inside, (g * dstep).sum().reshape(step.shape) * ctx.factor, None, None, None


def learned_step_quantize(v: Tensor, step: Tensor, bits: int, signed: bool, count: int | None = None) -> Tensor:
    """LSQ (Esser et al. 2020). step: positive scalar; its gradient is multiplied by 1/√(count·Q_P), by 1 without `count`."""
    low, high = integer_range(bits, signed)
    if not torch.is_grad_enabled():  # exporters see plain operations
        return _learned_step_values(v, step, low, high)
    factor = 1.0 if count is None else (count * high) ** -0.5
    return _LearnedStep.apply(v, step, low, high, factor)


def initial_step(v: Tensor, bits: int, signed: bool) -> Tensor:
    """2·mean|v|/√Q_P, a scalar."""
    return 2 * v.detach().abs().mean() / integer_range(bits, signed)[1] ** 0.5


@without_macs
class LazyActivation(ActivationQuantizer):
    """Base: an activation quantizer with one trained scalar, initialised by the first forward pass.

    `signed`: whether its input may be negative; found out in that pass, part of the stored configuration afterwards.
    Buffer `initialised`: whether that pass has happened.
    """

    settings: ClassVar[tuple[str, ...]] = ("bits", "signed")
    initialised: Tensor

    def __init__(self, bits: int, signed: bool | None = None) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("initialised", torch.tensor(False))

    def initial(self, x: Tensor) -> Tensor:
        """The first value of the scalar."""
        raise NotImplementedError

    def quantize(self, x: Tensor, signed: bool) -> Tensor:
        """[N, C, H, W] -> the same, quantized."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same, quantized."""
        if self.signed is None:
            self.signed = bool((x < 0).any())
            with torch.no_grad():
                self.scalar.copy_(self.initial(x))
                self.initialised.fill_(True)
        return self.quantize(x, self.signed)


@compressed_layer
class LearnedStepActivation(LazyActivation):
    """LSQ on activations; `scalar` is the step size."""

    kind: ClassVar[str] = "lsq_activation"

    def initial(self, x: Tensor) -> Tensor:
        return initial_step(x, self.bits, bool(self.signed)).clamp(min=MINIMUM_STEP)

    def quantize(self, x: Tensor, signed: bool) -> Tensor:
        return learned_step_quantize(x, self.scalar.clamp(min=MINIMUM_STEP), self.bits, signed, x[0].numel())

    def grid(self) -> Grid:
        step = self.scalar.detach().clamp(min=MINIMUM_STEP)
        return Grid(step, torch.zeros(()), *integer_range(self.bits, bool(self.signed)))


@compressed_layer
class LearnedStepConv2d(WeightQuantizedConv2d):
    """LSQ on weights: parameter `step`, a scalar."""

    kind: ClassVar[str] = "lsq_conv2d"
    step: Tensor

    def add_tensors(self) -> None:
        """`step` starts from the current weight."""
        step = initial_step(self.weight, self.weight_bits, signed=True).clamp(min=MINIMUM_STEP)
        self.register_parameter("step", nn.Parameter(step))

    def quantize(self, weight: Tensor) -> Tensor:
        return learned_step_quantize(weight, self.step.clamp(min=MINIMUM_STEP), self.weight_bits, True, weight.numel())

    def weight_step(self) -> Tensor:
        return self.step.detach().clamp(min=MINIMUM_STEP)


def _pact_values(x: Tensor, alpha: Tensor, bits: int, signed: bool) -> Tensor:
    levels = integer_range(bits, signed)[1]
    floor = -alpha if signed else torch.zeros_like(alpha)
    clipped = torch.maximum(torch.minimum(x, alpha), floor)
    return torch.round(clipped * levels / alpha) * alpha / levels


class _Pact(torch.autograd.Function):
    """Clip to [0, α] or [−α, α], then round. dx = [low ≤ x < α]; dα = [x ≥ α] (− [x ≤ −α] with a sign), no rounding error."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, bits: int, signed: bool) -> Tensor:
        ctx.save_for_backward(x, alpha)
        ctx.signed = signed
        return _pact_values(x, alpha, bits, signed)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, alpha = ctx.saved_tensors
        above, below = x >= alpha, (x <= -alpha) if ctx.signed else (x < 0)
        dalpha = above.to(g) - below.to(g) if ctx.signed else above.to(g)
        return g * ~(above | below), (g * dalpha).sum().reshape(alpha.shape), None, None


def pact_quantize(x: Tensor, alpha: Tensor, bits: int, signed: bool = False) -> Tensor:
    """PACT (Choi et al. 2018): round(y(2^b−1)/α)·α/(2^b−1), y = clip(x, 0, α).

    Inputs that may be negative (`signed`): clip to [−α, α] on 2^(b−1)−1 steps either side.
    """
    if not torch.is_grad_enabled():
        return _pact_values(x, alpha, bits, signed)
    return _Pact.apply(x, alpha, bits, signed)


def dorefa_weight(w: Tensor, bits: int, rescale: bool = False) -> Tensor:
    """2·round(w̃(2^b−1))/(2^b−1) − 1 with w̃ = tanh(w)/(2 max|tanh(w)|) + ½, in [−1, 1].

    `rescale` multiplies by max|tanh(w)|: networks without batch normalisation cannot undo another magnitude.
    A weight that is all zero stays so, with the gradient of tanh.
    """
    squashed, levels = torch.tanh(w), 2**bits - 1
    largest = squashed.abs().max()
    grid = 2 * round_ste((squashed / (2 * positive(largest)) + 0.5) * levels) / levels - 1
    return torch.where(largest > 0, grid * largest if rescale else grid, squashed)


@compressed_layer
class PactActivation(LazyActivation):
    """PACT; `scalar` is the clip point α. `start_at` None starts it at the largest magnitude of the first input."""

    kind: ClassVar[str] = "pact_activation"
    settings: ClassVar[tuple[str, ...]] = ("bits", "signed", "start_at")

    def __init__(self, bits: int, signed: bool | None = None, start_at: float | None = PACT_START) -> None:
        super().__init__(bits, signed)
        self.start_at = start_at

    def initial(self, x: Tensor) -> Tensor:
        if self.start_at is not None:
            return x.new_tensor(self.start_at)
        return x.detach().abs().max().clamp(min=MINIMUM_STEP)  # below it, α would get no gradient

    def quantize(self, x: Tensor, signed: bool) -> Tensor:
        return pact_quantize(x, self.scalar.clamp(min=MINIMUM_STEP), self.bits, signed)

    def grid(self) -> Grid:
        levels = integer_range(self.bits, bool(self.signed))[1]
        alpha = self.scalar.detach().clamp(min=MINIMUM_STEP)
        return Grid(alpha / levels, torch.zeros(()), -levels if self.signed else 0, levels)


@compressed_layer
class DorefaConv2d(WeightQuantizedConv2d):
    """DoReFa's weights; nothing trained but the weight."""

    kind: ClassVar[str] = "dorefa_conv2d"
    settings: ClassVar[tuple[str, ...]] = ("weight_bits", "input_bits", "rescale")
    rescale: bool

    def quantize(self, weight: Tensor) -> Tensor:
        return dorefa_weight(weight, self.weight_bits, self.rescale)

    def weight_step(self) -> Tensor:
        largest = torch.tanh(self.weight.detach()).abs().max() if self.rescale else torch.ones(())
        return 2 * largest / (2**self.weight_bits - 1)
