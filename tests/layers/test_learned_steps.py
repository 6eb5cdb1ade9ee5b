"""One trained number per tensor: LSQ's step, PACT's clip point; and DoReFa's weights. Numbers are worked by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressbench.layers.learned_steps import (
    DorefaConv2d,
    LazyActivation,
    LearnedStepActivation,
    LearnedStepConv2d,
    PactActivation,
    dorefa_weight,
    initial_step,
    learned_step_quantize,
    pact_quantize,
)


@pytest.mark.parametrize(
    ("v", "quantized", "dstep", "dv"),
    [
        (-3, -2, -4, 0),
        (-0.3, -0.5, -0.4, 1),
        (0.1, 0, -0.2, 1),
        (0.26, 0.5, 0.48, 1),
        (0.6, 0.5, -0.2, 1),
        (1.6, 1.5, 3, 0),
    ],
)
def test_three_signed_bits_with_step_one_half(v: float, quantized: float, dstep: float, dv: float) -> None:
    value, step = torch.tensor(float(v), requires_grad=True), torch.tensor(0.5, requires_grad=True)
    result = learned_step_quantize(value, step, 3, signed=True)
    result.backward()
    assert (result.item(), step.grad.item(), value.grad.item()) == pytest.approx((quantized, dstep, dv), abs=1e-6)


def test_unsigned_grid_starts_at_zero() -> None:
    x = torch.tensor([-1.0, 0.2, 0.6, 9.0])
    assert learned_step_quantize(x, torch.tensor(0.5), 2, signed=False).tolist() == [0.0, 0.0, 0.5, 1.5]


def test_first_step_and_gradient_factor() -> None:
    assert initial_step(torch.full((10,), 0.8), 3, signed=True).item() == pytest.approx(0.92376, abs=1e-5)
    step = torch.tensor(0.5, requires_grad=True)
    learned_step_quantize(torch.tensor(-3.0), step, 3, True, count=1000).backward()
    assert step.grad.item() / -4 == pytest.approx(0.0182574, abs=1e-6)


def test_the_first_batch_starts_the_step_and_decides_the_sign() -> None:
    layer, x = LearnedStepActivation(2), torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 2, 2)
    layer(x)
    assert (layer.signed, layer.scalar.item()) == (False, pytest.approx(2 * 1.5 / 3**0.5))
    layer(-5 * x)
    assert (layer.signed, layer.scalar.item()) == (False, pytest.approx(2 * 1.5 / 3**0.5))


def test_two_bits_with_a_clip_point_of_two() -> None:
    x = torch.tensor([-1, 0.2, 0.4, 1.0, 1.7, 2, 5], requires_grad=True)
    alpha = torch.tensor(2.0, requires_grad=True)
    y = pact_quantize(x, alpha, 2)
    torch.testing.assert_close(y, torch.tensor([0, 0, 2 / 3, 4 / 3, 2, 2, 2]))
    assert torch.autograd.grad(y.sum(), x, retain_graph=True)[0].tolist() == [0, 1, 1, 1, 1, 0, 0]
    per_element = [torch.autograd.grad(y[i], alpha, retain_graph=True)[0].item() for i in range(7)]
    assert per_element == [0, 0, 0, 0, 0, 1, 1]


def test_inputs_with_a_sign_are_clipped_on_both_sides() -> None:
    x, alpha = torch.tensor([-5.0, -0.4, 0.3, 1.4, 3.0]), torch.tensor(2.0, requires_grad=True)
    y = pact_quantize(x, alpha, 2, signed=True)
    assert y.tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0]
    y.sum().backward()
    assert alpha.grad.item() == 0.0


def test_dorefa_weights() -> None:
    w = torch.tensor([-0.5, -0.1, 0.1, 0.5], requires_grad=True)
    quantized = dorefa_weight(w, 2)
    torch.testing.assert_close(quantized, torch.tensor([-1, -1 / 3, 1 / 3, 1]))
    torch.testing.assert_close(dorefa_weight(w, 2, rescale=True), quantized * torch.tanh(torch.tensor(0.5)))
    quantized.sum().backward()
    assert (w.grad[1:3] > 0).all()


def test_clip_point_starts_at_ten_or_at_the_largest_input() -> None:
    x = torch.tensor([[[[-3.0, 1.0]]]])
    ten, largest = PactActivation(2), PactActivation(2, start_at=None)
    ten(x), largest(x)
    assert (ten.scalar.item(), largest.scalar.item(), largest.signed) == (10.0, 3.0, True)


def rounded(x: Tensor) -> Tensor:
    """Straight through, for autograd."""
    return x + (x.round() - x).detach()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 8), st.booleans())
def test_gradients_are_those_of_the_equation_with_rounding_straight_through(seed: int, bits: int, signed: bool) -> None:
    """LSQ's equations (3) to (5): v / s clipped, rounded, times s; without a factor on the step's gradient."""
    v = torch.randn(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    step = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    expected = rounded((v / step).clamp(low, high)) * step
    upstream = torch.randn(50, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    found = learned_step_quantize(v, step, bits, signed)
    torch.testing.assert_close(found, expected)
    for own, theirs in zip(
        torch.autograd.grad(found, (v, step), upstream), torch.autograd.grad(expected, (v, step), upstream), strict=True
    ):
        torch.testing.assert_close(own, theirs)


def test_a_weights_step_starts_from_the_weight_and_scales_its_gradient() -> None:
    torch.manual_seed(0)
    layer = LearnedStepConv2d.rebuild(nn.Conv2d(3, 4, 3), {"weight_bits": 3, "input_bits": 3})
    assert layer.step.item() == pytest.approx(2 * layer.weight.abs().mean().item() / 3**0.5)
    assert "step" in dict(layer.named_parameters())
    (own,) = torch.autograd.grad(layer.effective_weight().sum(), layer.step)
    (plain,) = torch.autograd.grad(learned_step_quantize(layer.weight, layer.step, 3, True).sum(), layer.step)
    assert own.item() == pytest.approx(plain.item() / (108 * 3) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_dorefa_weights_are_one_step_apart(bits: int, rescale: bool) -> None:
    torch.manual_seed(bits)
    layer = DorefaConv2d.rebuild(nn.Conv2d(8, 16, 3), {"weight_bits": bits, "input_bits": bits, "rescale": rescale})
    values = layer.effective_weight().detach().unique()
    largest = layer.weight.tanh().abs().max().item() if rescale else 1.0
    assert len(values) == 2**bits and values[-1].item() == pytest.approx(largest) == -values[0].item()
    torch.testing.assert_close(values.diff(), layer.weight_step().expand(2**bits - 1))


@pytest.mark.parametrize("kind", [LearnedStepActivation, PactActivation])
@pytest.mark.parametrize("negative", [False, True])
def test_the_output_lies_on_the_grid_of_the_layer(kind: type[LazyActivation], negative: bool) -> None:
    torch.manual_seed(0)
    layer, x = kind(3).eval(), torch.rand(2, 3, 8, 8) - 0.5 * negative
    assert layer.signed is None and not layer.initialised
    with torch.no_grad():
        y = layer(30 * x)
    assert layer.signed is negative and layer.initialised
    torch.testing.assert_close(layer.grid().fake_quantize(30 * x), y)
