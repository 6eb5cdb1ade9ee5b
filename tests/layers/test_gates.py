"""DDTB's gate: its 2-bit arithmetic and its size. Numbers are worked by hand."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from compressbench.layers import gates
from compressbench.layers.gates import Gate, gate_size, quantize_gate_input, ternary
from tests.empty_ranges import TENSORS


def test_ternary_weights() -> None:
    w = torch.tensor([0.9, -0.2, 0.44, -0.46, -0.9], requires_grad=True)
    t = ternary(w)
    m = 0.9 + 1e-8
    torch.testing.assert_close(t, torch.tensor([m, 0, 0, -m, -m]))
    t.sum().backward()
    assert w.grad.tolist() == [1.0] * 5


def test_gate_input_has_four_levels_and_no_gradient() -> None:
    x = torch.randn(4, 16, 1, 1, requires_grad=True)
    y = quantize_gate_input(x)
    assert len(y.unique()) <= 4
    assert not y.requires_grad
    assert quantize_gate_input(x, "straight_through").requires_grad


def test_a_constant_gate_input_is_left_alone() -> None:
    x = torch.full((2, 3, 1, 1), 0.3)
    assert torch.equal(quantize_gate_input(x), x)


def test_in_training_the_ranges_of_the_gate_are_those_of_the_batch() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0, 0.3]).reshape(2, 3, 1, 1)
    assert quantize_gate_input(x)[1].flatten().tolist() == [3.0, 0.0, 0.0]
    assert quantize_gate_input(x, per_sample=True)[1].flatten().tolist() == [3.0, 0.0, 0.0]
    assert quantize_gate_input(x, per_sample=True)[0].flatten()[1].item() == pytest.approx(4 / 3)


def test_size_of_a_gate() -> None:
    assert gate_size(64) == {"values": 2176, "macs": 2112}
    assert sum(p.numel() for p in Gate(64).parameters()) == 2176
    assert 14 * gate_size(64)["values"] == 30464
    assert gates.TernaryConv2d.weight_bits == 2


@pytest.mark.parametrize("values", TENSORS)
def test_what_has_no_range_stays_finite_and_zeros_stay_zero(values: str) -> None:
    x = TENSORS[values]
    for quantized in (ternary(x), quantize_gate_input(x), quantize_gate_input(x, per_sample=True)):
        assert quantized.isfinite().all()
        assert not quantized[x == 0].any()


def test_a_gate_is_its_two_ternary_convolutions_on_the_pooled_features() -> None:
    torch.manual_seed(0)
    gate, x = Gate(5).eval(), torch.randn(3, 5, 4, 6)
    pooled = quantize_gate_input(x.mean((2, 3), keepdim=True), per_sample=True)
    hidden = gate.bn(nn.functional.conv2d(pooled, ternary(gate.conv1.weight))).relu()
    expected = nn.functional.conv2d(quantize_gate_input(hidden, per_sample=True), ternary(gate.conv2.weight))
    assert torch.equal(gate(x), expected) and expected.shape == (3, 2, 1, 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20))
def test_levels_are_a_third_of_the_range_apart_and_hold_its_ends(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1)
    low, high = x.min(), x.max()
    assume(high - low > 1e-3)
    y, third = quantize_gate_input(x), (high - low) / 3
    steps = y / third
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-6)
    assert ((y - x).abs() <= third * (1 + 1e-6)).all(), "the grid holds 0, which moves its ends by half a step at most"
