"""Masked layers that learn more than their kept weights: gradients against autograd of the plain formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.layers.masked import MASKED, Forms, mask_layer, masked
from compressbench.pruning.trained_masks import SCORED, STRAIGHT_THROUGH, scored_weight, scores

LAYERS = [(nn.Conv2d(3, 4, 3), (2, 3, 6, 6)), (nn.Linear(5, 4), (7, 5))]


def half_removed(original: nn.Module, forms: Forms) -> nn.Module:
    torch.manual_seed(0)
    layer = mask_layer(original, forms=forms).double()
    layer.weight.data.normal_()
    layer.mask.copy_(torch.rand_like(layer.weight) < 0.5)
    layer.zero_grad()
    return layer


def by_effective_weight(layer: nn.Module, x: Tensor) -> Tensor:
    """dL/d(W * M) of L = the sum of squared outputs."""
    effective = (layer.weight * layer.mask).detach().requires_grad_()
    linear = isinstance(layer, nn.Linear)
    y = F.linear(x, effective, layer.bias) if linear else F.conv2d(x, effective, layer.bias)
    return torch.autograd.grad(y.square().sum(), effective)[0]


def test_gradients_are_the_dense_gradient_times_mask_and_times_weight() -> None:
    torch.manual_seed(0)
    x, upstream = torch.randn(2, 3, 6, 6).double(), torch.randn(2, 4, 4, 4).double()
    weight = torch.randn(4, 3, 3, 3).double().requires_grad_()
    score = torch.randn_like(weight).requires_grad_()
    mask = torch.rand(weight.shape) < 0.5
    F.conv2d(x, scored_weight(weight, score, mask)).backward(upstream)
    effective = (weight * mask).detach().requires_grad_()
    F.conv2d(x, effective).backward(upstream)
    dense = effective.grad
    assert torch.allclose(weight.grad, dense * mask, atol=1e-10)  # type: ignore[arg-type,operator]
    assert torch.allclose(score.grad, dense * weight, atol=1e-10)  # type: ignore[arg-type,operator]
    assert (weight.grad[~mask] == 0).all()  # type: ignore[index]


@pytest.mark.parametrize(("original", "shape"), LAYERS)
def test_straight_through_all_weights_get_the_gradient_of_the_effective_one(original: nn.Module, shape: tuple) -> None:
    layer, x = half_removed(original, STRAIGHT_THROUGH), torch.randn(shape).double()
    assert torch.equal(layer.effective_weight(), layer.weight * layer.mask)
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, by_effective_weight(layer, x))
    assert layer.weight.grad[~layer.mask].abs().min() > 0


@pytest.mark.parametrize("by_magnitude", [False, True])
@pytest.mark.parametrize(("original", "shape"), LAYERS)
def test_scores_learn_from_kept_and_removed_weights_alike(
    original: nn.Module, shape: tuple, by_magnitude: bool
) -> None:
    layer, x = half_removed(original, SCORED), torch.randn(shape).double()
    layer.by_magnitude = by_magnitude
    layer.score.data.normal_()
    layer(x).square().sum().backward()
    g = by_effective_weight(layer, x)
    torch.testing.assert_close(layer.weight.grad, g * layer.mask)
    sign = layer.score.detach().sign() if by_magnitude else 1
    torch.testing.assert_close(layer.score.grad, g * layer.weight.detach() * sign)
    assert torch.equal(layer.rank(), layer.score.abs() if by_magnitude else layer.score)


def test_scores_start_at_zero_and_are_found_by_the_name_of_their_layer() -> None:
    model = masked(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)), forms=SCORED)
    assert list(scores(model)) == ["0", "2"] and not any(score.any() for score in scores(model).values())
    assert {id(score) for score in scores(model).values()} < {id(p) for p in model.parameters()}
    assert scores(masked(nn.Sequential(nn.Linear(2, 2)))) == {}


@pytest.mark.parametrize("forms", [STRAIGHT_THROUGH, SCORED])
def test_they_are_stored_as_plain_masked_layers(forms: Forms) -> None:
    assert {kind: form.kind for kind, form in forms.items()} == {kind: form.kind for kind, form in MASKED.items()}
