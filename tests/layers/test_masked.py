"""Masked layers: what the mask does in the forward and in the backward pass, and which layers get one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressbench.layers.masked import MASKED, MaskedConv2d, MaskedLinear, mask_layer, masked, masked_layers


def convolution(**options: object) -> MaskedConv2d:
    """Half of its entries removed."""
    torch.manual_seed(0)
    layer = mask_layer(nn.Conv2d(4, 6, 3, **options))
    layer.mask.copy_(torch.rand_like(layer.weight) > 0.5)
    return layer


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def test_removed_weights_get_no_gradient_and_kept_ones_that_of_the_dense_layer() -> None:
    layer = convolution()
    images = torch.randn(3, 4, 12, 12)
    layer(images).square().sum().backward()
    effective = (layer.weight * layer.mask).detach().requires_grad_()
    F.conv2d(images, effective, layer.bias, layer.stride, layer.padding).square().sum().backward()
    assert torch.equal(layer.weight.grad, effective.grad * layer.mask)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"groups": 2}, {"padding_mode": "reflect", "padding": 1}]
)
def test_it_computes_what_the_dense_layer_does_with_zeros_for_removed_weights(options: dict) -> None:
    layer, x = convolution(**options), torch.randn(2, 4, 9, 9)
    dense = nn.Conv2d(4, 6, 3, **options)
    dense.weight.data, dense.bias.data = layer.weight.data * layer.mask, layer.bias.data
    assert torch.equal(layer(x), dense(x))


def test_a_mask_of_ones_changes_no_bit_and_shares_the_parameters() -> None:
    model, x = network(), torch.randn(2, 1, 4, 4)
    expected, parameters = model(x), list(model.parameters())
    assert torch.equal(masked(model)(x), expected)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_only_the_named_layers_are_masked_and_each_by_its_kind() -> None:
    assert list(masked_layers(masked(network(), {"3"}))) == ["3"]
    layers = masked_layers(masked(network(), block=2))
    assert {name: type(layer) for name, layer in layers.items()} == {"0": MaskedConv2d, "3": MaskedLinear}
    assert layers["0"].config() == {"block": 2} and layers["0"].mask.dtype == torch.bool
    assert masked_layers(masked(network(), forms={nn.Linear: MASKED[nn.Linear]})).keys() == {"3"}


def test_masking_twice_leaves_the_masks_as_they_are() -> None:
    model = masked(network())
    model[0].mask[0] = False
    assert masked(model) is model and not model[0].mask[0].any()


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.ConvTranspose2d(4, 4, 3)])
def test_what_has_no_masked_form_is_named(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"{type(layer).__name__} has no masked form: Conv2d and Linear have"):
        mask_layer(layer)
