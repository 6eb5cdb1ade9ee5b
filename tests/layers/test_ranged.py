"""Weights on a range of their own, recomputed in every forward pass."""

import pytest
import torch
from torch import Tensor, nn

from compressbench.layers.ranged import RangedConv2d


def _ranged(weight: Tensor, weight_range: str, bits: int = 2) -> RangedConv2d:
    conv = nn.Conv2d(1, len(weight), 1)
    conv.weight.data = weight.reshape(-1, 1, 1, 1)
    config = {"weight_bits": bits, "input_bits": bits, "weight_range": weight_range, "percentile": 99.0}
    return RangedConv2d.rebuild(conv, config)


def test_weights_clip_at_percentiles_and_clipped_ones_get_no_gradient() -> None:
    layer = _ranged(torch.linspace(-1, 2, 201), "percentile")
    effective = layer.effective_weight()
    assert len(effective.unique()) == 4
    effective.sum().backward()
    assert layer.weight.grad.flatten().tolist() == [0.0] * 2 + [1.0] * 197 + [0.0] * 2


def test_smallest_and_largest_weight_get_all_of_their_gradient() -> None:
    layer = _ranged(torch.tensor([-1.0, 0.2, 1.0]), "minmax", bits=3)
    layer.effective_weight().sum().backward()
    assert layer.weight.grad.flatten().tolist() == [1.0, 1.0, 1.0]


def test_symmetric_weights_use_the_largest_magnitude() -> None:
    effective = _ranged(torch.tensor([-0.9, 0.1, 0.5]), "symmetric").effective_weight().flatten()
    torch.testing.assert_close(effective, torch.tensor([-0.9, 0.0, 0.9]))


def test_minmax_weights_span_the_extremes() -> None:
    effective = _ranged(torch.tensor([-1.0, 0.1, 2.0]), "minmax").effective_weight().flatten()
    torch.testing.assert_close(effective, torch.tensor([-1.0, 0.0, 2.0]))


@pytest.mark.parametrize("weight_range", ["percentile", "minmax", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_step_is_the_distance_between_neighbouring_values(weight_range: str, bits: int) -> None:
    layer = _ranged(torch.randn(400, generator=torch.Generator().manual_seed(bits)), weight_range, bits)
    values = layer.effective_weight().detach().unique()
    steps = values.diff() / layer.weight_step()
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    assert steps.min() >= 1 - 1e-3 and len(values) <= 2**bits - (weight_range == "symmetric")


def test_thirty_two_bits_are_the_weight_itself() -> None:
    layer = _ranged(torch.randn(5), "percentile", bits=32)
    assert layer.effective_weight() is layer.weight


def test_the_range_follows_the_weight_and_learns_nothing() -> None:
    layer = _ranged(torch.tensor([-1.0, 0.2, 0.7]), "symmetric", bits=4)
    before = layer.effective_weight().detach()
    layer.weight.data.mul_(3)
    torch.testing.assert_close(layer.effective_weight(), 3 * before)
    assert dict(layer.named_parameters()).keys() == {"weight", "bias"} and not dict(layer.named_buffers())
