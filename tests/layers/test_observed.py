"""Activations on the observed range: calibration, then training."""

import pytest
import torch
from torch import nn

from compressbench.layers.observed import ObservedActivation, observe


def test_observed_range_widens_in_calibration_and_decides_the_sign() -> None:
    layer = ObservedActivation(2, "symmetric").eval()
    model = nn.Sequential(layer)
    observe(model, True)
    for top in (1.0, 3.0, 2.0):
        assert torch.equal(model(torch.tensor([0.0, top])), torch.tensor([0.0, top]))
    observe(model, False)
    assert (layer.upper.item(), layer.signed) == (3.0, False)
    assert model(torch.tensor([0.2, 0.9, 1.7, 9.0])).tolist() == [0.0, 1.0, 2.0, 3.0]


def test_observed_range_follows_training_slowly() -> None:
    layer = ObservedActivation(4, "asymmetric", signed=True).train()
    layer.upper.fill_(1.0)
    layer(torch.tensor([-1.0, 2.0]))
    assert (layer.lower.item(), layer.upper.item()) == (pytest.approx(-0.1), pytest.approx(1.1))


def test_values_outside_the_range_get_no_gradient() -> None:
    layer = ObservedActivation(3, "asymmetric", signed=True).eval()
    layer.lower.fill_(-1.0), layer.upper.fill_(2.5)
    x = torch.tensor([-3.0, -0.4, 0.3, 2.4, 9.0], requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.tolist() == [-1.0, -0.5, 0.5, 2.5, 2.5], "steps of half"
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_calibration_passes_the_input_through_and_evaluation_moves_nothing() -> None:
    layer = ObservedActivation(2, "symmetric")
    layer.observing = True
    x = torch.tensor([-1.0, 3.0])
    assert layer(x) is x
    layer.calibrated()
    assert layer.signed and (layer.lower.item(), layer.upper.item()) == (-1.0, 3.0)
    layer.eval()(100 * x)
    assert (layer.lower.item(), layer.upper.item()) == (-1.0, 3.0)
