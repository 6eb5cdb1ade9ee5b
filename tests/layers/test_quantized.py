"""Quantized layers: number of values, range tracking, storage."""

import pytest
import torch
from torch import nn

from compressbench import models, storage
from compressbench.layers.quantized import (
    QuantConv2d,
    QuantizedActivation,
    QuantLinear,
    insert_quantizers,
    quantize_activation,
    quantize_layer,
    track_ranges,
)


def quantized(bits=4, **ends):
    model = models.build("resnet_cifar", blocks=(1, 1, 1), widths=(4, 8, 8), in_channels=1, shortcut="conv").eval()
    return insert_quantizers(model, bits, bits, **ends)


def test_ends_have_their_own_bits_and_layers_read_those_of_the_activation_before_them():
    def bits(model, name, kind):
        return [getattr(m, name) for m in model.modules() if isinstance(m, kind)]

    wide = quantized(4, end_weight_bits=8, end_activation_bits=6)
    layers = (QuantConv2d, QuantLinear)
    assert bits(wide, "weight_bits", layers) == [8, *[4] * 8, 8]
    assert bits(wide, "bits", QuantizedActivation) == [6, *[4] * 5, 6]
    assert bits(wide, "input_bits", layers) == [6, 6, *[4] * 7, 6]
    assert set(bits(quantized(4, end_weight_bits=8), "input_bits", layers)) == {4}


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Linear(64, 10)])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_span_weight_has_at_most_two_to_the_bits_values_per_channel(layer, bits):
    weight = quantize_layer(layer, bits, bits).effective_weight()
    assert all(row.unique().numel() <= 2**bits for row in weight.flatten(1))
    assert weight.unique().numel() > 2**bits


def test_span_weight_follows_the_current_weight_and_passes_the_gradient():
    layer = quantize_layer(nn.Linear(6, 3), 3, 3)
    upstream = torch.randn(3, 6)
    (layer.effective_weight() * upstream).sum().backward()
    assert torch.equal(layer.weight.grad, upstream)
    before = layer.effective_weight().detach()
    with torch.no_grad():
        layer.weight.mul_(2)
    torch.testing.assert_close(layer.effective_weight(), 2 * before)


def tracked(tracker, steps):
    activation = QuantizedActivation(4, tracker)
    values = []
    for _ in range(steps):
        activation.track(torch.tensor([0.0, 1.0]))
        values.append(activation.hi.item())
    assert activation.lo == 0
    return values


def test_compounding_tracker_has_the_published_sequence():
    hi = tracked("compounding", 400)
    assert hi[:5] == pytest.approx([1, 5.263158, 17.848126, 47.000039, 103.53846], rel=1e-5)
    assert max(hi) == pytest.approx(3945.1, abs=0.1)
    assert hi.index(max(hi)) + 1 == 21
    assert hi[99] == pytest.approx(3.63, abs=0.005)
    assert hi[152] == pytest.approx(1.00991, abs=1e-5)  # c is 0.9^153, exact value 1.0099061
    assert next(i for i, v in enumerate(hi, 1) if i > 21 and abs(v - 1) <= 0.01) == 153
    assert hi[399] == pytest.approx(1, abs=1e-6)


def test_plain_tracker_is_an_exponential_average():
    hi = tracked("plain", 100)
    assert [hi[0], hi[1], hi[2], hi[9]] == pytest.approx([0.1, 0.19, 0.271, 0.651322], abs=1e-6)
    assert [hi[21], hi[99]] == pytest.approx([0.901523, 0.999973], abs=1e-6)


def test_ranges_move_only_while_tracking():
    model, x = quantized(), torch.randn(4, 1, 16, 16)
    track_ranges(model, True)
    model(x)
    track_ranges(model, False)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    assert state["stem.act.hi"] > 0
    model(10 * x)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def test_relu6_keeps_its_ceiling():
    activation = quantize_activation(nn.ReLU6(), 4, "plain")
    activation.hi.fill_(8.0)
    assert activation(torch.tensor([9.0])) == pytest.approx(6, abs=0.3)


@pytest.mark.parametrize("scheme", ["span", "asymmetric", "symmetric"])
@pytest.mark.parametrize("inputs", ["none", "unsigned"])
def test_stored_model_is_the_same_function(tmp_path, scheme, inputs):
    model = models.build("plain", widths=(4, 8), strides=(2, 2)).eval()
    layer = quantize_layer(model.body[0].conv, 4, 4, scheme, per_channel=scheme == "asymmetric", inputs=inputs)
    for name in ("weight_scale", "input_scale"):
        if hasattr(layer, name):
            getattr(layer, name).fill_(0.05)
    layer.bias = nn.Parameter(torch.randn(4))
    model.body[0].conv = layer
    model.body[0].act = QuantizedActivation(4, "compounding")
    model.body[0].act.hi.fill_(1.0)
    storage.save_model(model, tmp_path)
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(storage.load_model(tmp_path)(x), model(x))
