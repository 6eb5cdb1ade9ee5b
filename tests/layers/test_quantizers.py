"""The quantizers against the numbers of their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressbench.layers import quantizers as quant

X = torch.tensor([-1.0, -0.2, 0.0, 0.5, 3.0])


def scalar(value):
    return torch.tensor(float(value))


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=tolerance, rtol=0)


def test_asymmetric_four_bits():
    grid = quant.make_grid(X.min(), X.max(), 4, "asymmetric")
    close(grid.scale, 0.2666667)
    assert grid.zero_point == 4
    assert grid.quantize(X).tolist() == [0, 3, 4, 6, 15]
    close(grid.fake_quantize(X), [-1.066667, -0.266667, 0, 0.533333, 2.933333])


def test_symmetric_four_bits():
    grid = quant.make_grid(X.min(), X.max(), 4, "symmetric")
    close(grid.scale, 0.4285714)
    assert grid.quantize(X).tolist() == [-2, 0, 0, 1, 7]


def test_symmetric_scheme_on_non_negative_values_uses_the_unsigned_grid():
    x = torch.tensor([0.0, 0.3, 1.5])
    grid = quant.make_grid(x.min(), x.max(), 4, "symmetric", signed=False)
    assert grid.quantize(x).tolist() == [0, 3, 15]
    assert grid.zero_point == 0


def test_empty_range_gets_scale_one():
    for scheme in ("asymmetric", "symmetric"):
        grid = quant.make_grid(scalar(0), scalar(0), 4, scheme)
        assert grid.scale == 1
        assert grid.fake_quantize(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("lo", "hi", "bits", "s", "z", "x", "q", "expected"),
    [
        (-1, 3, 4, 3.75, 4, X, [-8, -5, -4, -2, 7], [-1.066667, -0.266667, 0, 0.533333, 2.933333]),
        (-1, 3, 3, 1.75, 2, X, [-4, -2, -2, -1, 3], [-1.142857, 0, 0, 0.571429, 2.857143]),
        (0.2, 0.95, 4, 20, 12, [0.2, 0.25, 0.5, 0.95, 0, 2], None, [0.2, 0.25, 0.5, 0.95, 0.2, 0.95]),
        (0, 2, 3, 3.5, 4, [0, 0.1, 1, 2.149, 5, -1], None, [0, 0, 1.142857, 2, 2, 0]),
    ],
)
def test_intraq_quantizer(lo, hi, bits, s, z, x, q, expected):
    x = torch.as_tensor(x)
    actual_q, actual_s, actual_z = quant.span_quantize(x, scalar(lo), scalar(hi), bits)
    close(actual_s, s)
    assert actual_z == z
    if q is not None:
        assert actual_q.tolist() == q
    close(quant.span_fake_quantize(x, scalar(lo), scalar(hi), bits), expected)


def test_intraq_gradient_is_the_upstream_gradient_everywhere():
    x = torch.tensor([-5.0, -1.0, 0.3, 3.0, 9.0], requires_grad=True)
    lo, hi = torch.tensor(-1.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    upstream = torch.tensor([1.0, -2.0, 3.0, 0.5, 7.0])
    quant.span_fake_quantize(x, lo, hi, 4).backward(upstream)
    assert torch.equal(x.grad, upstream)
    assert lo.grad is None and hi.grad is None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8))
def test_both_conventions_are_one_function_away_from_ties(seed, bits):
    """Unsigned q = signed q + 2^(k-1), zero_point = 2^(k-1) - z, equal values."""
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    grid = quant.make_grid(x.min(), x.max(), bits, "asymmetric")
    q, _, z = quant.span_quantize(x, x.min(), x.max(), bits)
    assert torch.equal(grid.quantize(x), q + 2 ** (bits - 1))
    assert grid.zero_point == 2 ** (bits - 1) - z
    close(quant.span_fake_quantize(x, x.min(), x.max(), bits), grid.fake_quantize(x), 1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8), st.sampled_from(["asymmetric", "symmetric"]))
def test_grid_is_idempotent_keeps_zero_and_bounds_the_error(seed, bits, scheme):
    x = torch.randn(300, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    grid = quant.make_grid(x.min(), x.max(), bits, scheme)
    once = grid.fake_quantize(x)
    close(grid.fake_quantize(once), once, 1e-12)
    assert grid.fake_quantize(torch.zeros(1, dtype=x.dtype)) == 0
    bound = grid.scale / 2 if scheme == "symmetric" else grid.scale
    assert ((once - x).abs() <= bound * (1 + 1e-9)).all()
    assert once.unique().numel() <= 2**bits


@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
def test_per_channel_error_is_at_most_the_per_tensor_error(scheme):
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 1, 16).reshape(
        16, 1, 1, 1
    )

    def error(per_channel):
        lo, hi = quant.minmax_range(weight, per_channel)
        return (quant.make_grid(lo, hi, 4, scheme).fake_quantize(weight) - weight).square().mean()

    assert error(True) < error(False)


@pytest.mark.parametrize(
    ("scheme", "low", "high", "ratio"), [("asymmetric", 0.44, 0.54, 0.45), ("symmetric", 0.10, 0.15, 0.1)]
)
def test_mse_range_clips_a_lone_outlier(scheme, low, high, ratio):
    """The normal values are the quantiles: with a random draw the smallest value decides between two minima (0.38 and 0.48)."""
    normal = torch.special.ndtri((torch.arange(9999, dtype=torch.float64) + 0.5) / 9999)
    x = torch.cat([normal, torch.tensor([20.0])])
    lo, hi = quant.minmax_range(x)
    best_lo, best_hi = quant.mse_range(x, 4, scheme)
    assert low <= best_hi / hi <= high

    def error(lo, hi):
        return (quant.make_grid(lo, hi, 4, scheme).fake_quantize(x) - x).square().mean()

    assert error(best_lo, best_hi) < ratio * error(lo, hi)


@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
def test_mse_range_per_channel_is_never_worse_than_minmax(scheme):
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    lo, hi = quant.minmax_range(weight, per_channel=True)
    errors = quant.mse_errors(weight, lo, hi, 3, scheme)
    assert errors.shape == (100, 8, 1, 1, 1)
    assert (errors.amin(0) <= errors[-1]).all()
    alone = [quant.mse_range(weight[c], 3, scheme)[1] for c in range(8)]
    close(quant.mse_range(weight, 3, scheme, per_channel=True)[1].flatten(), torch.stack(alone))


def test_percentile_100_is_minmax_and_99_clips():
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    assert quant.percentile_range(x, 100) == quant.minmax_range(x)
    lo, hi = quant.percentile_range(x, 99.0)
    close(hi, 2.326, 0.08)
    close(lo, -2.326, 0.08)
    close(quant.percentile_range(x, 100, "symmetric")[1], x.abs().max())


def test_straight_through_with_clipped_gradient():
    x = torch.tensor([-9.0, 0.1, 9.0], requires_grad=True)
    grid = quant.make_grid(scalar(-1), scalar(1), 4, "symmetric")
    quant.fake_quantize(x, grid, clip_gradient=True).sum().backward()
    assert x.grad.tolist() == [0, 1, 0]


def test_round_ste_rounds_half_to_even():
    x = torch.tensor([0.5, 1.5, 2.5], requires_grad=True)
    y = quant.round_ste(x)
    y.sum().backward()
    assert y.tolist() == [0, 2, 2]
    assert x.grad.tolist() == [1, 1, 1]


def test_impossible_bits_are_refused():
    with pytest.raises(ValueError, match="bits"):
        quant.integer_range(0, signed=True)
    with pytest.raises(ValueError, match="2 bits"):
        quant.symmetric_parameters(scalar(1), 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40), st.floats(0, 100))
def test_a_percentile_interpolates_linearly_as_numpy_does(values: list[float], percent: float) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    found = quant.percentile(x, percent).item()
    assert found == pytest.approx(np.percentile(x.numpy(), percent, method="linear"), rel=1e-9, abs=1e-9)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    assert quant.percentile(shuffled.reshape(1, -1, 1), percent).item() == found


def test_straight_through_has_the_bits_of_the_quantized_value_and_the_gradient_of_the_other() -> None:
    x, quantized = torch.tensor([1.0, 1e-8, 3.0], requires_grad=True), torch.tensor([0.1, 1.0, -7.3])
    y = quant.straight_through(x, quantized)
    assert torch.equal(y, quantized), "x + (quantized - x) would lose the last bits"
    y.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert x.grad.tolist() == [1, 2, 3]
    with torch.no_grad():
        assert quant.straight_through(x, quantized) is quantized
