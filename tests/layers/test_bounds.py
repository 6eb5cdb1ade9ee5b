"""Quantizers between trainable bounds, their gates, and the weights' ranges. Numbers are worked by hand."""

import pytest
import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.layers.bounds import (
    BoundedActivation,
    dual_bounds_quantize,
    integer_codes,
    percentiles,
    symmetric_bound_quantize,
)
from compressbench.layers.registry import LAYER_KINDS

U, L = torch.tensor(3.1), torch.tensor(-1.3)


@pytest.mark.parametrize(("x", "expected"), [(0.7, 0.0), (0.8, 22 / 15), (5.0, 44 / 15), (-5.0, -22 / 15)])
def test_two_bits_between_bounds(x: float, expected: float) -> None:
    assert dual_bounds_quantize(torch.tensor(x), U, L, 2).item() == pytest.approx(expected, abs=1e-6)


def test_levels_are_multiples_of_the_step_and_contain_zero() -> None:
    levels = dual_bounds_quantize(torch.linspace(-4, 4, 1001), U, L, 2).unique()
    torch.testing.assert_close(levels, torch.tensor([-22 / 15, 0, 22 / 15, 44 / 15]))


@pytest.mark.parametrize(
    ("x", "du", "dl", "dx"),
    [(5.0, 0.9621212, 0.0378788, 0.0), (0.8, 0.1515152, -0.1515152, 1.0), (-5.0, -0.0378788, 1.0378788, 0.0)],
)
def test_gradients_include_the_rounding_error(x: float, du: float, dl: float, dx: float) -> None:
    values = [torch.tensor(v, requires_grad=True) for v in (x, 3.1, -1.3)]
    dual_bounds_quantize(*values, bits=2).backward()
    torch.testing.assert_close(torch.stack([v.grad for v in values]), torch.tensor([dx, du, dl]), atol=1e-6, rtol=0)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_equal_automatic_differentiation_with_straight_through_rounding(per_sample: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 2, 4, 4, generator=rng, dtype=torch.float64) * 3).requires_grad_()
    shape = (3, 1, 1, 1) if per_sample else ()
    u = (2 + torch.rand(shape, generator=rng, dtype=torch.float64)).requires_grad_()
    low = (-1 - torch.rand(shape, generator=rng, dtype=torch.float64)).requires_grad_()
    g = torch.randn(3, 2, 4, 4, generator=rng, dtype=torch.float64)
    ours = torch.autograd.grad(dual_bounds_quantize(x, u, low, 3), (x, u, low), g)
    s = 7 / (u - low)
    z = _Round.apply(s * low) + 4
    theirs = torch.autograd.grad(
        (_Round.apply(s * torch.maximum(torch.minimum(x, u), low) - z) + z) / s, (x, u, low), g
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_half_the_gradient_passes_exactly_at_a_bound() -> None:
    x = torch.tensor([3.1, -1.3, 0.0], requires_grad=True)
    dual_bounds_quantize(x, U, L, 2).sum().backward()
    assert x.grad.tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_at_most_two_to_the_k_levels_on_an_integer_grid(bits: int) -> None:
    rng = torch.Generator().manual_seed(bits)
    x, upper, lower = torch.randn(5000, generator=rng), torch.tensor(1.7), torch.tensor(-0.9)
    levels, s = dual_bounds_quantize(x, upper, lower, bits).unique(), (2**bits - 1) / 2.6
    assert len(levels) <= 2**bits
    torch.testing.assert_close(levels * s, (levels * s).round(), atol=1e-5, rtol=0)
    assert dual_bounds_quantize(torch.zeros(1), upper, lower, bits).item() == 0.0


def test_ties_of_exactly_symmetric_bounds_reach_one_level_more_which_export_clamps() -> None:
    x, one = torch.linspace(-1, 1, 101), torch.tensor(1.0)
    assert len(dual_bounds_quantize(x, one, -one, 2).unique()) == 5
    codes = integer_codes(x, one, -one, 2)
    assert codes.q.min() >= -2
    assert codes.q.max() <= 1


def test_integer_codes_have_the_values_of_the_quantizer() -> None:
    x = torch.linspace(-4, 4, 333)
    codes = integer_codes(x, U, L, 2)
    assert set(codes.q.tolist()) == {-2, -1, 0, 1}
    torch.testing.assert_close((codes.q + codes.z) / codes.s, dual_bounds_quantize(x, U, L, 2))


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_other_bit_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits must be one of"):
        BoundedActivation(bits)
    with pytest.raises(ValueError, match="bits must be one of"):
        dual_bounds_quantize(torch.zeros(1), U, L, bits)


def test_a_symmetric_bound_has_three_levels_at_two_bits_and_learns_from_the_rounding_error() -> None:
    bound = torch.tensor(2.0, requires_grad=True)
    x = torch.tensor([-5.0, -0.6, 0.4, 1.2, 3.0], requires_grad=True)
    y = symmetric_bound_quantize(x, bound, 2)
    assert y.tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0]
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert bound.grad.item() == pytest.approx(-1 + 0.3 - 0.2 + 0.4 + 1)


def test_percentiles_interpolate_linearly() -> None:
    upper, lower = percentiles(torch.arange(101.0).flip(0), 99)
    assert (upper.item(), lower.item()) == (99.0, 1.0)
    upper, lower = percentiles(torch.tensor([0.0, 1.0, 2.0, 3.0]), 95)
    assert (upper.item(), lower.item()) == (pytest.approx(2.85), pytest.approx(0.15))


# ---- the activation quantizer


def test_bounds_start_once_and_the_flag_survives_storage() -> None:
    first, layer = torch.linspace(-1, 3, 64).reshape(1, 1, 8, 8), BoundedActivation(2)
    layer(first)
    upper, lower = percentiles(first, 99)
    assert (layer.upper.item(), layer.lower.item()) == (upper.item(), lower.item())
    again = LAYER_KINDS["bounded_activation"].rebuild(nn.Identity(), layer.config())
    again.load_state_dict(layer.state_dict())
    again(first * 10)
    assert again.upper.item() == upper.item()


def test_a_bound_of_ten_is_not_taken_for_an_unset_one() -> None:
    layer = BoundedActivation(3, constant=10)
    layer(torch.randn(1, 1, 4, 4))
    layer(torch.randn(1, 1, 4, 4))
    assert (layer.upper.item(), layer.lower.item(), bool(layer.initialised)) == (10.0, -10.0, True)


def test_bounds_of_equal_percentiles_are_the_extremes_and_zero() -> None:
    layer, x = BoundedActivation(2), torch.zeros(1, 1, 20, 20)
    x[0, 0, 3, 5] = 6.0
    assert torch.equal(layer(x), x)
    assert (layer.upper.item(), layer.lower.item()) == (6.0, 0.0)
    layer = BoundedActivation(2)
    layer(torch.full((1, 1, 8, 8), -4.0))
    assert (layer.upper.item(), layer.lower.item()) == (0.0, -4.0)


def test_crossed_bounds_stay_finite() -> None:
    layer = BoundedActivation(2)
    layer(torch.randn(1, 1, 8, 8))
    layer.upper.data.fill_(-5)
    assert layer(torch.randn(1, 1, 8, 8)).isfinite().all()


def test_thirty_two_bits_is_the_identity() -> None:
    x = torch.randn(1, 2, 3, 3)
    assert BoundedActivation(32)(x) is x


# ---- gates


def _gated(training: bool = False) -> tuple[BoundedActivation, Tensor]:
    torch.manual_seed(0)
    layer, x = BoundedActivation(3, gate_channels=4), torch.randn(3, 4, 6, 6)
    layer(x)
    return layer.train(training), x


def test_logits_of_zero_leave_the_static_quantizer() -> None:
    layer, x = _gated()
    nn.init.zeros_(layer.gate.conv2.weight)
    dynamic = layer(x)
    layer.gating = False
    torch.testing.assert_close(layer(x), dynamic, rtol=0, atol=0)


def test_factors_lie_between_zero_and_two() -> None:
    layer, x = _gated()
    nn.init.constant_(layer.gate.conv2.weight, 100.0)
    upper, lower = layer._bounds(x)
    assert ((upper / layer.upper >= 0) & (upper / layer.upper <= 2) & (lower / layer.lower >= 0)).all()


def test_in_evaluation_a_sample_changes_only_its_own_output() -> None:
    layer, x = _gated()
    changed = x.clone()
    changed[1] *= 3
    before, after = layer(x), layer(changed)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(torch.cat([layer(sample[None]) for sample in x]), before)


def test_gradient_reaches_only_the_last_convolution_of_the_gate() -> None:
    layer, x = _gated(training=True)
    layer(x).square().sum().backward()
    assert layer.gate.conv1.weight.grad is None
    assert layer.gate.bn.weight.grad is None
    for parameter in (layer.gate.conv2.weight, layer.upper, layer.lower):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_the_straight_through_variant_trains_the_whole_gate() -> None:
    torch.manual_seed(0)
    layer, x = BoundedActivation(3, gate_channels=4, gate_gradient="straight_through"), torch.randn(3, 4, 6, 6)
    layer(x).square().sum().backward()
    assert layer.gate.conv1.weight.grad.abs().sum() > 0


def test_gradients_of_gated_bounds_are_those_of_each_sample_times_its_factor() -> None:
    layer, x = _gated(training=True)
    layer(x).square().sum().backward()
    beta = 2 * torch.sigmoid(layer.logits.detach())
    upper, lower = (beta[:, [i]] * b.detach() for i, b in enumerate((layer.upper, layer.lower)))
    upper.requires_grad_(), lower.requires_grad_()
    dual_bounds_quantize(x, upper, lower, 3).square().sum().backward()
    torch.testing.assert_close(layer.upper.grad, (beta[:, [0]] * upper.grad).sum())
    torch.testing.assert_close(layer.lower.grad, (beta[:, [1]] * lower.grad).sum())


# ---- weights and observed activations


def test_an_input_of_nan_is_refused_by_what_it_is() -> None:
    with pytest.raises(UserError, match=r"cannot start.*nan"):
        BoundedActivation(4)(torch.full((1, 1, 4, 4), torch.nan))


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, 1e-30, 1e-40, 1e5])
def test_equal_bounds_give_their_value(value: float) -> None:
    bound = torch.tensor(value, requires_grad=True)
    lower = torch.tensor(value, requires_grad=True)
    x = torch.tensor([-1e6, value, 1e6], requires_grad=True)
    y = dual_bounds_quantize(x, bound, lower, 4)
    torch.testing.assert_close(y, torch.full((3,), value), atol=1e-38, rtol=1e-6)
    y.sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, bound, lower))
    codes = integer_codes(x.detach(), bound.detach(), lower.detach(), 4)
    torch.testing.assert_close((codes.q + codes.z) / codes.s, y.detach(), atol=1e-38, rtol=1e-6)


def test_a_symmetric_bound_of_zero_gives_zeros() -> None:
    x, bound = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True), torch.tensor(0.0, requires_grad=True)
    y = symmetric_bound_quantize(x, bound, 4)
    y.sum().backward()
    assert y.tolist() == [0.0, 0.0, 0.0]
    assert x.grad.isfinite().all() and bound.grad.isfinite()
