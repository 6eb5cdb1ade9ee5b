"""Uniform quantizers between trainable bounds: two of them (DDTB), or one and its negative (PAMS, PACT)."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from compressbench.accounting import without_macs
from compressbench.errors import UserError
from compressbench.layers.gates import Gate, GateGradient
from compressbench.layers.quantizers import Grid, percentile, positive, span_grid, straight_through
from compressbench.layers.registry import ActivationQuantizer, compressed_layer

Bounds = Literal["dual", "symmetric"]
BITS = (2, 3, 4, 32)
MINIMUM_WIDTH = 1e-3


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise ValueError(f"bits must be one of {BITS}, not {bits}")


class Codes(NamedTuple):
    """Integers q and the scale s and offset z that give them values (q + z) / s."""

    q: Tensor
    s: Tensor
    z: Tensor


def _finite(x: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, otherwise)


def _scale_and_offset(upper: Tensor, lower: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    # An empty range has one value, which lies on the grid of s = 1/|lower|, and 0 on any.
    s = _finite((2**bits - 1) / (upper - lower), _finite(1 / lower.abs(), torch.ones_like(lower)))
    return s, torch.round(s * lower) + 2 ** (bits - 1)


def integer_codes(x: Tensor, upper: Tensor, lower: Tensor, bits: int) -> Codes:
    """The integers of `dual_bounds_values`, clamped to -2^(bits-1) .. 2^(bits-1) - 1 for export.

    Without the clamp, half-way ties (upper = -lower, exactly) reach one integer more: 2^bits + 1 levels.
    """
    s, z = _scale_and_offset(upper, lower, bits)
    clipped = torch.maximum(torch.minimum(x, upper), lower)
    return Codes(torch.round(s * clipped - z).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), s, z)


def dual_bounds_values(x: Tensor, upper: Tensor, lower: Tensor, bits: int) -> Tensor:
    """(round(s·c − z) + z)/s with c = x clipped to [lower, upper], s = (2^bits − 1)/(upper − lower): DDTB eq. of the quantizer.

    x: float, any shape; upper, lower: scalars, or [N, 1, 1, 1] for bounds of each sample. 0 stays exactly 0. Equal bounds
    give their value, up to rounding.
    """
    s, z = _scale_and_offset(upper, lower, bits)
    clipped = torch.maximum(torch.minimum(x, upper), lower)
    return (torch.round(s * clipped - z) + z) / s


def dual_bounds_levels(upper: Tensor, lower: Tensor, bits: int) -> Tensor:
    """How many values `dual_bounds_values` has: 2^bits at most, or 2^bits + 1 where upper = -lower is a half-way tie."""
    s, z = _scale_and_offset(upper, lower, bits)
    return torch.round(s * upper - z) - torch.round(s * lower - z) + 1


class _DualBounds(torch.autograd.Function):
    """The gradients of `dual_bounds_values` with identity gradient through both roundings.

    dx = g inside, 0 outside, g/2 at a bound; du = Σ g([x > u] + (x̂ − c)/(u − l)); dl = Σ g([x < l] − (x̂ − c)/(u − l)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, upper: Tensor, lower: Tensor, bits: int) -> Tensor:
        quantized = dual_bounds_values(x, upper, lower, bits)
        ctx.save_for_backward(x, upper, lower, quantized)
        return quantized

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, upper, lower, quantized = ctx.saved_tensors
        half = x.new_tensor(0.5)
        above, below = torch.heaviside(x - upper, half), torch.heaviside(lower - x, half)
        dx = g * (1 - above - below) if ctx.needs_input_grad[0] else None
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return dx, None, None, None
        clipped = torch.maximum(torch.minimum(x, upper), lower)
        error = (quantized - clipped) * g / positive(upper - lower)
        du, dl = (g * above + error).sum_to_size(upper.shape), (g * below - error).sum_to_size(lower.shape)
        return dx, du, dl, None


def dual_bounds_quantize(x: Tensor, upper: Tensor, lower: Tensor, bits: int) -> Tensor:
    """`dual_bounds_values` with gradients for x and both bounds. ValueError unless bits is 2, 3, 4 or 32 (32: x itself)."""
    _check_bits(bits)
    if bits == 32:
        return x
    if torch.is_grad_enabled() and (x.requires_grad or upper.requires_grad or lower.requires_grad):
        return _DualBounds.apply(x, upper, lower, bits)
    return dual_bounds_values(x, upper, lower, bits)


def quantize_weight(weight: Tensor, upper: Tensor, lower: Tensor, bits: int) -> Tensor:
    """`dual_bounds_values` of a weight in a range that is not trained (bits 2, 3, 4 or 32).

    Gradient: all of it in [lower, upper], bounds included, as the smallest and the largest weight lie on those of a min-max
    range (the authors' code; "one half at a bound" is for activations); 0 for clipped weights.
    """
    _check_bits(bits)
    if bits == 32:
        return weight
    return straight_through(weight.clamp(lower, upper), dual_bounds_values(weight.detach(), upper, lower, bits))


def symmetric_bound_values(x: Tensor, bound: Tensor, bits: int) -> Tensor:
    """round(c/s)·s with c = x clipped to ±bound, s = bound/(2^(bits−1) − 1): 2^bits − 1 levels; 0 for a bound of 0."""
    levels = 2 ** (bits - 1) - 1
    inverse = _finite(levels / bound, torch.zeros_like(bound))
    return torch.round(torch.maximum(torch.minimum(x, bound), -bound) * inverse) * (bound / levels)


class _SymmetricBound(torch.autograd.Function):
    """As `_DualBounds`: straight through the rounding, and the rounding error reaches the bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor, bits: int) -> Tensor:
        quantized = symmetric_bound_values(x, bound, bits)
        ctx.save_for_backward(x, bound, quantized)
        return quantized

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, bound, quantized = ctx.saved_tensors
        inside = (x.abs() < bound).to(g.dtype)
        error = torch.where(inside.bool(), (quantized - x) / bound, torch.sign(x))
        return g * inside, (g * error).sum_to_size(bound.shape), None


def symmetric_bound_quantize(x: Tensor, bound: Tensor, bits: int) -> Tensor:
    """`symmetric_bound_values` with gradients for x and the bound."""
    if torch.is_grad_enabled() and (x.requires_grad or bound.requires_grad):
        return _SymmetricBound.apply(x, bound, bits)
    return symmetric_bound_values(x, bound, bits)


def percentiles(x: Tensor, percent: float) -> tuple[Tensor, Tensor]:
    """(upper, lower) = the percent-th and (100 - percent)-th percentile of all values, linearly interpolated, detached."""
    return percentile(x.detach(), percent), percentile(x.detach(), 100 - percent)


@without_macs
@compressed_layer
class BoundedActivation(ActivationQuantizer):
    """Quantizes its input between trainable bounds, which a gate may rescale for every sample.

    Parameters `upper` and (dual) `lower`: scalars. Buffer `initialised`: whether they hold anything yet; the first forward
    pass in which they do not sets them from its input.

    Attributes:
        gating: apply the gate. Training may switch it off for a while; a loaded model has it on.
        logits: [N, 2, 1, 1], what the gate said in the last forward pass in training mode (its regulariser needs it).
    """

    kind: ClassVar[str] = "bounded_activation"
    settings: ClassVar[tuple[str, ...]] = ("bits", "bounds", "percentile", "constant", "gate_channels", "gate_gradient")
    initialised: Tensor

    def __init__(
        self,
        bits: int,
        bounds: Bounds = "dual",
        percentile: float = 99.0,
        constant: float | None = None,
        gate_channels: int | None = None,
        gate_gradient: GateGradient = "detached",
    ) -> None:
        super().__init__()
        _check_bits(bits)
        if bounds == "symmetric" and gate_channels is not None:
            raise ValueError("a symmetric bound has no gate")
        self.bits, self.bounds, self.percentile, self.constant = bits, bounds, percentile, constant
        self.gate_channels, self.gate_gradient = gate_channels, gate_gradient
        self.upper = nn.Parameter(torch.tensor(1.0))
        self.lower = nn.Parameter(torch.tensor(-1.0)) if bounds == "dual" else None
        self.register_buffer("initialised", torch.tensor(False))
        self.gate = None if gate_channels is None else Gate(gate_channels, gate_gradient)
        self.gating = True
        self.logits: Tensor | None = None
        self._known_initialised = False

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set the bounds: percentiles of this input (dual), the percentile of its magnitude (symmetric), or ± the constant.

        Where the percentiles are equal, as of an input that is nearly all zero, the bounds are its extremes and 0; an input
        that is all zero starts `MINIMUM_WIDTH` wide, from where bounds have gradients. UserError for an input of NaN.
        """
        if self.constant is not None:
            upper, lower = x.new_tensor(self.constant), x.new_tensor(-self.constant)
        elif self.bounds == "dual":
            upper, lower = percentiles(x, self.percentile)
        else:
            upper, lower = percentiles(x.abs(), self.percentile)[0], x.new_zeros(())
        if not (upper.isfinite() and lower.isfinite()):
            raise UserError(
                f"an activation quantizer cannot start: the {self.percentile:g}th percentile of its first input is "
                f"{upper:g} and the {100 - self.percentile:g}th is {lower:g}; check the dense model."
            )
        if not upper > lower:
            values = x if self.bounds == "dual" else x.abs()
            upper, lower = values.max().clamp(min=0), values.min().clamp(max=0)
            upper = torch.where(upper > lower, upper, lower + MINIMUM_WIDTH)
        self.upper.copy_(upper)
        if self.lower is not None:
            self.lower.copy_(lower)
        self.initialised.fill_(True)

    def grid(self) -> Grid | None:
        """The grid between the trained bounds; None where a gate moves it for every sample."""
        if self.gate is not None or self.bits == 32:
            return None
        if self.lower is None:
            levels = 2 ** (self.bits - 1) - 1
            return Grid(self.upper.detach().clamp(min=MINIMUM_WIDTH) / levels, torch.zeros(()), -levels, levels)
        lower = self.lower.detach()
        return span_grid(lower, torch.maximum(self.upper.detach(), lower + MINIMUM_WIDTH), self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same, quantized."""
        if self.bits == 32:
            return x
        if not self._known_initialised:  # reads the flag once, not in every pass
            if not self.initialised:
                self.initialise(x)
            self._known_initialised = True
        if self.lower is None:
            return symmetric_bound_quantize(x, self.upper.clamp(min=MINIMUM_WIDTH), self.bits)
        upper, lower = self._bounds(x)
        return dual_bounds_quantize(x, torch.maximum(upper, lower + MINIMUM_WIDTH), lower, self.bits)

    def _bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(u, l), per sample when a gate is applied: u' = beta_u·u, l' = beta_l·l."""
        upper, lower = self.upper, self.lower
        assert lower is not None, "a symmetric bound is one number"
        if self.gate is None:
            return upper, lower
        logits = self.gate(x)
        self.logits = logits if self.training else None
        if not self.gating:
            return upper, lower
        beta_upper, beta_lower = (2 * torch.sigmoid(logits)).split(1, dim=1)
        return beta_upper * upper, beta_lower * lower

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known_initialised = False


def bounded_activations(model: nn.Module) -> dict[str, BoundedActivation]:
    """The quantizers of this kind by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, BoundedActivation)}
