"""MinMax post-training quantization on a small network."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench.config import discovery
from compressbench.layers.folding import FoldedNorm
from compressbench.method import loading
from compressbench.storage import load_model, save_model
from methods.baselines.minmax.method import MinMax
from tests.contexts.calibration import CTX, X, quantized_layers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_sixteen_bits_are_nearly_the_float_network(scheme, per_channel):
    config = MinMax.Config(
        weight_bits=16,
        activation_bits=16,
        first_last_bits=None,
        weight_scheme=scheme,
        per_channel=per_channel,
        activation_scheme=scheme,
    )
    with torch.no_grad():
        torch.testing.assert_close(MinMax(config).compress(CTX)(X), CTX.dense()(X), atol=5e-3, rtol=0)


def test_every_layer_is_quantized_and_every_norm_folded():
    model = MinMax(MinMax.Config(first_last_bits=None)).compress(CTX)
    assert len(quantized_layers(model)) == 10
    assert sum(isinstance(m, FoldedNorm) for m in model.modules()) == 9
    assert not any(type(m) in (nn.Conv2d, nn.Linear, nn.BatchNorm2d) for m in model.modules())
    assert all((m.weight_bits, m.input_bits) == (4, 4) for m in quantized_layers(model))


def test_first_and_last_layer_have_eight_bits_by_default():
    bits = [(m.weight_bits, m.input_bits) for m in quantized_layers(MinMax(MinMax.Config()).compress(CTX))]
    assert bits[0] == bits[-1] == (8, 8) and set(bits[1:-1]) == {(4, 4)}


def test_effective_weights_lie_on_their_grid():
    for layer in quantized_layers(MinMax(MinMax.Config(weight_bits=3, first_last_bits=None)).compress(CTX)):
        assert all(row.unique().numel() <= 8 for row in layer.effective_weight().flatten(1))
        peak = layer.weight.flatten(1).abs().amax(1)
        torch.testing.assert_close(layer.weight_scale.flatten(), peak / 3)  # 2^(3-1) - 1


def test_stored_model_is_the_same_function(tmp_path):
    model = MinMax(MinMax.Config()).compress(CTX)
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path)(X), model(X))


def test_every_setting_is_valid():
    for name in ("minmax", "clipping"):
        for setting in discovery.declaration(ROOT, name).settings:
            config = loading.resolve(ROOT, name, setting, "desk")
            assert config.first_last_bits == (8 if "first_last8" in setting else None)
            assert (config.calibration == "real") == setting.endswith("real")
