"""Uniform quantizers as pure functions: grids, ranges, straight-through gradients.

Two conventions are in use. The textbook divides by the step (`scale`, x̂ = scale·(q − zero_point), unsigned q); IntraQ
multiplies by its inverse (s = 1/scale, x̂ = (q + z)/s, signed q = unsigned q − 2^(k−1), z = 2^(k−1) − zero_point). On the
same range [lo, hi] the two have the same grid, and the same function of x but for exact ties, where rounding half to even
sees x/scale in one and x·s − z in the other. What remains different is the range: the textbook enlarges it to contain 0, so
that 0 is exact; IntraQ does not.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Scheme = Literal["asymmetric", "symmetric"]
MSE_CANDIDATES = 100
PERCENTILE_EXACT = 1_000_000


class Grid(NamedTuple):
    """The 2^bits representable values scale·(q − zero_point), q = low..high.

    scale, zero_point: tensors that broadcast against what is quantized: scalars, or [channels, 1, ...].
    """

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int

    def quantize(self, x: Tensor) -> Tensor:
        """Integers low..high, kept in x's floating type."""
        q = x / self.scale
        return q.round_().add_(self.zero_point).clamp_(self.low, self.high)

    def dequantize(self, q: Tensor) -> Tensor:
        return self.scale * (q - self.zero_point)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """x̂: x moved to the grid, still floating point."""
        return self.quantize(x).sub_(self.zero_point).mul_(self.scale)


def integer_range(bits: int, signed: bool) -> tuple[int, int]:
    """(-2^(bits-1), 2^(bits-1) - 1), or (0, 2^bits - 1)."""
    if bits < 1:
        raise ValueError(f"bits must be at least 1, not {bits}")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def asymmetric_parameters(lo: Tensor, hi: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(scale, zero_point) of the unsigned grid on [lo, hi], enlarged to contain 0. An empty range gets scale 1."""
    lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    scale = positive((hi - lo) / integer_range(bits, signed=False)[1])
    return scale, torch.round(-lo / scale)


def symmetric_parameters(magnitude: Tensor, bits: int, signed: bool = True) -> tuple[Tensor, Tensor]:
    """(scale, zero_point = 0) of the grid whose largest value is `magnitude`. An empty range gets scale 1."""
    largest = integer_range(bits, signed)[1]
    if largest < 1:
        raise ValueError("a symmetric signed grid needs at least 2 bits")
    scale = positive(magnitude / largest)
    return scale, torch.zeros_like(scale)


def positive(x: Tensor) -> Tensor:
    """x where it is positive, else 1: what divides a range that may be empty."""
    return torch.where(x > 0, x, torch.ones_like(x))


def make_grid(lo: Tensor, hi: Tensor, bits: int, scheme: Scheme, signed: bool = True) -> Grid:
    """The grid of a range: asymmetric (unsigned, with zero point) or symmetric (signed, or from 0 if nothing is negative)."""
    if scheme == "asymmetric":
        return Grid(*asymmetric_parameters(lo, hi, bits), *integer_range(bits, signed=False))
    magnitude = torch.maximum(lo.abs(), hi.abs()) if signed else hi
    return Grid(*symmetric_parameters(magnitude, bits, signed), *integer_range(bits, signed))


def span_parameters(lo: Tensor, hi: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """IntraQ's (s, z): exactly 2^bits values from lo to hi, 0 need not be one of them."""
    s = (2**bits - 1) / (hi - lo).clamp(min=1e-8)
    return s, torch.round(s * lo) + 2 ** (bits - 1)


def span_grid(lo: Tensor, hi: Tensor, bits: int) -> Grid:
    """IntraQ's values of the range as a grid of the textbook's form."""
    s, z = span_parameters(lo, hi, bits)
    return Grid(1 / s, -z, *integer_range(bits, signed=True))


def span_quantize(x: Tensor, lo: Tensor, hi: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """(q, s, z) with q = clip(round(s·x − z)) in -2^(bits-1)..2^(bits-1)-1."""
    s, z = span_parameters(lo, hi, bits)
    q = s * x
    return q.sub_(z).round_().clamp_(*integer_range(bits, signed=True)), s, z


def span_fake_quantize(x: Tensor, lo: Tensor, hi: Tensor, bits: int) -> Tensor:
    """x̂ = (q + z)/s on [lo, hi]; the gradient passes unchanged, also where x was clipped; none to lo and hi."""
    with torch.no_grad():
        q, s, z = span_quantize(x, lo, hi, bits)
        quantized = q.add_(z).div_(s)
    return straight_through(x, quantized)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized` (bit for bit, unlike x + (quantized - x)) with the gradient of `x`."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _StraightThrough.apply(x, quantized)
    return quantized


def round_ste(x: Tensor) -> Tensor:
    """round(x), half to even, with the gradient of x."""
    return straight_through(x, torch.round(x.detach()))


def fake_quantize(x: Tensor, grid: Grid, clip_gradient: bool = False) -> Tensor:
    """x̂ on a grid with a straight-through gradient, everywhere or (clip_gradient) only inside the grid."""
    if clip_gradient:
        x = x.clamp(grid.dequantize(torch.tensor(float(grid.low))), grid.dequantize(torch.tensor(float(grid.high))))
    return straight_through(x, grid.fake_quantize(x.detach()))


def _by_channel(x: Tensor, reduce: Callable[[Tensor], Tensor], per_channel: bool) -> Tensor:
    """`reduce` over the rows of [rows, values]: one row, or one per first dimension; the result broadcasts against x."""
    rows = x.flatten(1) if per_channel else x.reshape(1, -1)
    shape = [-1, *[1] * (x.dim() - 1)] if per_channel else []
    return reduce(rows).reshape(shape)


def minmax_range(x: Tensor, per_channel: bool = False) -> tuple[Tensor, Tensor]:
    """(min, max) of a tensor (scalars), or per first dimension (shape [channels, 1, ...])."""
    return _by_channel(x, lambda rows: rows.amin(1), per_channel), _by_channel(
        x, lambda rows: rows.amax(1), per_channel
    )


def percentile(x: Tensor, percent: float) -> Tensor:
    """Linearly interpolated between two order statistics of all values, which are selected without sorting; a scalar."""
    values = x.flatten()
    position = percent / 100 * (len(values) - 1)
    first = int(position)
    lower = _order_statistic(values, first)
    return lower if position == first else torch.lerp(lower, _order_statistic(values, first + 1), position - first)


def _order_statistic(values: Tensor, index: int) -> Tensor:
    if torch.onnx.is_in_onnx_export():  # ONNX has no kthvalue
        return values.sort().values[index]
    return torch.kthvalue(values, index + 1).values


def percentile_range(
    x: Tensor, percentile: float, scheme: Scheme = "asymmetric", per_channel: bool = False
) -> tuple[Tensor, Tensor]:
    """(100 - percentile, percentile) percentiles; symmetric: ± the percentile of |x|. Percentile 100 is minmax.

    Values beyond `PERCENTILE_EXACT` per row are thinned by an even stride: torch's quantile takes no more, and sorting is slow.
    """

    def quantile(values: Tensor, percent: float) -> Tensor:
        def reduce(rows: Tensor) -> Tensor:
            stride = -(-rows.shape[1] // PERCENTILE_EXACT)
            return torch.quantile(rows[:, ::stride], percent / 100, dim=1)

        return _by_channel(values, reduce, per_channel)

    if not 50 < percentile <= 100:
        raise ValueError(f"percentile must lie in (50, 100], not {percentile}")
    if scheme == "symmetric":
        magnitude = quantile(x.abs(), percentile)
        return -magnitude, magnitude
    return quantile(x, 100 - percentile), quantile(x, percentile)


def mse_errors(x: Tensor, lo: Tensor, hi: Tensor, bits: int, scheme: Scheme, signed: bool = True) -> Tensor:
    """Σ (x − x̂)² for the ranges (c·lo, c·hi), c = 1/100 … 1: shape [100, *lo.shape]."""
    per_channel = lo.dim() > 0
    errors = []
    for candidate in range(1, MSE_CANDIDATES + 1):
        c = candidate / MSE_CANDIDATES
        difference = x - make_grid(c * lo, c * hi, bits, scheme, signed).fake_quantize(x)
        errors.append(_by_channel(difference.square(), lambda rows: rows.sum(1), per_channel))
    return torch.stack(errors)


def best_mse_range(errors: Tensor, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """(c·lo, c·hi) of the smallest error, per channel where lo is."""
    c = (errors.argmin(0) + 1) / MSE_CANDIDATES
    return c * lo, c * hi


def mse_range(
    x: Tensor, bits: int, scheme: Scheme = "asymmetric", signed: bool = True, per_channel: bool = False
) -> tuple[Tensor, Tensor]:
    """The shrunken minmax range with the smallest squared error."""
    lo, hi = minmax_range(x, per_channel)
    return best_mse_range(mse_errors(x, lo, hi, bits, scheme, signed), lo, hi)
