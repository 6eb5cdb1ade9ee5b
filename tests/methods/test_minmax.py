"""MinMax post-training quantization on a small network."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compressbench import models, registry
from compressbench.data import Split
from compressbench.errors import UserError
from compressbench.layers.folding import FoldedNorm, fold_norms
from compressbench.layers.quantized import QuantConv2d, QuantLinear
from compressbench.quantization.post_training import PostTrainingConfig, calibration_ranges, quantize_post_training
from compressbench.storage import load_model, save_model
from methods.baselines.minmax.method import MinMax

ROOT = Path(__file__).parents[2]


def context():
    torch.manual_seed(0)
    model = models.build("resnet_cifar", blocks=(1, 1, 1), widths=(8, 8, 16), in_channels=1, shortcut="conv").train()
    images = torch.randn(64, 1, 16, 16) + 0.5
    for _ in range(30):
        model(images)  # running statistics
    model.eval()
    return SimpleNamespace(
        dense=lambda: load_copy(model), data=SimpleNamespace(train=Split(images, torch.zeros(64, dtype=torch.long))),
        info=SimpleNamespace(channels=1, size=16), device=torch.device("cpu"),
        generator=lambda purpose: torch.Generator().manual_seed(0),
    )  # fmt: skip


def load_copy(model):
    copy = models.build(model.spec.architecture, **model.spec.arguments)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


CTX = context()
X = CTX.data.train.images


def quantized_layers(model):
    return [m for m in model.modules() if isinstance(m, QuantConv2d | QuantLinear)]


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


def test_real_ranges_are_the_minimum_and_maximum_of_the_layer_inputs():
    ranges = calibration_ranges(CTX.dense(), CTX, PostTrainingConfig(images=64, batch_size=16), "minmax")
    assert ranges["stem.conv"].lo == X.min() and ranges["stem.conv"].hi == X.max()
    assert ranges["classifier"].lo >= 0
    folded = calibration_ranges(fold_norms(CTX.dense()), CTX, PostTrainingConfig(images=64), "minmax")
    torch.testing.assert_close(folded["classifier"].hi, ranges["classifier"].hi)


@pytest.mark.parametrize("calibration", ["gaussian", "bn"])
def test_data_free_calibration_does_not_touch_the_data_or_the_network(calibration):
    ctx = SimpleNamespace(**{**vars(CTX), "data": None})
    model = ctx.dense()
    ranges = calibration_ranges(model, ctx, PostTrainingConfig(calibration=calibration, images=64), "minmax")
    assert all(r.hi > r.lo for r in ranges.values())
    expected = CTX.dense().state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
    assert not any(m.training for m in model.modules())


def test_bn_calibration_needs_batch_norms():
    ctx = SimpleNamespace(**vars(CTX))
    with pytest.raises(UserError, match="calibration: bn"):
        calibration_ranges(nn.Conv2d(1, 1, 1), ctx, PostTrainingConfig(calibration="bn"), "minmax")


def test_symmetric_activations_are_unsigned_after_relu():
    model = CTX.dense()
    config = PostTrainingConfig(activation_scheme="symmetric", images=64)
    model = quantize_post_training(model, calibration_ranges(model, CTX, config, "minmax"), config, "minmax")
    kinds = {name: m.inputs for name, m in model.named_modules() if isinstance(m, QuantConv2d | QuantLinear)}
    assert kinds.pop("stem.conv") == "symmetric"
    assert set(kinds.values()) == {"unsigned"}


def test_stored_model_is_the_same_function(tmp_path):
    model = MinMax(MinMax.Config()).compress(CTX)
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path)(X), model(X))


def test_every_setting_is_valid():
    for name in ("minmax", "clipping"):
        for setting in registry.declaration(ROOT, name).settings:
            config = registry.resolve(ROOT, name, setting, "desk")
            assert config.first_last_bits == (8 if "ends8" in setting else None)
            assert (config.calibration == "real") == setting.endswith("real")
