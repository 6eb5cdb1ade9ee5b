"""Tensors without a range: every quantizer, of weights and of activations, gives the constant, with finite gradients."""

import pytest
import torch
from torch import nn

from compressbench.layers import all_layers  # noqa: F401  (registers every kind)
from compressbench.layers.observed import observe
from compressbench.layers.packing import pack_weight
from compressbench.layers.quantized import QuantizedActivation, mask_quantized_layer, quantize_layer
from compressbench.layers.registry import LAYER_KINDS
from methods.recu.layer import RectifiedClampConv2d
from methods.siman.layer import MagnitudeConv2d
from tests.empty_ranges import SHAPE, TENSORS
from tests.layers.kinds import ACTIVATIONS, BITS, OTHER, RANGED, Layer, rebuilt


def convolution(name: str) -> nn.Conv2d:
    layer = nn.Conv2d(25, 4, 2)
    layer.weight.data = TENSORS[name].clone()
    return layer


def test_every_stored_kind_of_quantizer_is_asked() -> None:
    tried = {type(build(nn.Conv2d(25, 4, 2))) for build in (RANGED | OTHER).values()}
    tried |= {type(build()) for build in ACTIVATIONS.values()}
    kinds = {cls for cls in LAYER_KINDS.values() if hasattr(cls, "weight_step") or hasattr(cls, "grid")}
    linear = quantize_layer(nn.Linear(2, 2), BITS, BITS)
    masked = mask_quantized_layer(linear, torch.ones(2, 2, dtype=torch.bool))
    assert kinds - tried == {type(linear), type(masked)}, "which share their code with the convolutions"


@pytest.mark.parametrize("values", TENSORS)
@pytest.mark.parametrize("quantizer", RANGED | OTHER)
def test_weights_without_a_range_stay_finite_and_get_finite_gradients(quantizer: str, values: str) -> None:
    torch.manual_seed(0)
    layer = (RANGED | OTHER)[quantizer](convolution(values)).train()
    x = torch.randn(2, 25, 5, 5).requires_grad_()
    output = layer(x)
    output.square().sum().backward()
    assert output.isfinite().all()
    assert quantizer == "one bit" or x.grad.isfinite().all()  # the stored form does not train
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    effective = layer.effective_weight().detach()
    torch.testing.assert_close(pack_weight(layer).weight(), effective)
    if values == "all zero" and quantizer not in ("bnn", "recu"):  # whose scale is no magnitude
        assert not effective.any()
    if values.startswith("all"):
        assert len(effective.unique()) == 1
    if values in ("all 0.3", "all -0.3") and quantizer in RANGED:
        torch.testing.assert_close(effective, TENSORS[values])
    if values in ("all 0.3", "all -0.3") and quantizer == "dorefa rescaled":
        torch.testing.assert_close(effective, TENSORS[values].tanh())


@pytest.mark.parametrize("values", TENSORS)
@pytest.mark.parametrize("quantizer", ACTIVATIONS)
def test_activations_without_a_range_stay_finite_and_get_finite_gradients(quantizer: str, values: str) -> None:
    layer, x = ACTIVATIONS[quantizer]().train(), TENSORS[values].clone()
    model = nn.Sequential(layer)
    with torch.no_grad():
        observe(model, True)
        model(x)
        observe(model, False)
        if isinstance(layer, QuantizedActivation):
            layer.tracking = True
            for _ in range(300):
                layer(x)
            layer.tracking = False
    x.requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    assert (y[x == 0] == 0).all()
    grid = layer.eval().grid()
    assert grid is None or (grid.scale.isfinite() and grid.scale > 0)
    if not values.startswith("all"):
        return
    assert len(y.unique()) == 1
    expected = x.detach().clamp_min(0) if isinstance(layer, QuantizedActivation) else x.detach()
    if quantizer not in ("lsq", "pact", "gated bounds"):  # whose step, clip point and gate are not the input's
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("quantizer", ["dual bounds", "symmetric bound", "pact from the largest", "lsq"])
def test_a_quantizer_that_started_from_zeros_learns_from_what_comes_later(quantizer: str) -> None:
    layer = ACTIVATIONS[quantizer]().train()
    layer(torch.zeros(SHAPE))
    layer(torch.rand(SHAPE) + 0.1).sum().backward()
    moved = [p for name, p in layer.named_parameters() if name in ("upper", "scalar")]
    assert all(p.grad.abs() > 0 for p in moved)


@pytest.mark.parametrize("build", [rebuilt(RectifiedClampConv2d), rebuilt(MagnitudeConv2d)], ids=["recu", "siman"])
def test_filters_of_one_weight_have_no_deviation(build: Layer) -> None:
    layer = build(nn.Conv2d(1, 3, 1)).train()
    y = layer(torch.randn(2, 1, 4, 4))
    y.sum().backward()
    assert y.isfinite().all() and layer.weight.grad.isfinite().all()
