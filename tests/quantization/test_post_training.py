"""Calibration, ranges and grids of post-training quantization."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compressbench.errors import UserError
from compressbench.layers.folding import fold_norms
from compressbench.layers.quantized import QuantConv2d, QuantLinear
from compressbench.layers.quantizers import make_grid
from compressbench.quantization.post_training import (
    InputRange,
    PostTrainingConfig,
    calibration_ranges,
    normalising_by_batch,
    quantize_post_training,
    weight_range,
)
from tests.contexts.calibration import CTX, X
from tests.empty_ranges import TENSORS


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


def observed(clipping, x, percentile=99.99, scheme="asymmetric"):
    seen = InputRange(percentile)
    for batch in x.split(-(-len(x) // 4)):
        seen.update(batch, clipping, scheme)
    return seen


def test_percentile_100_of_one_batch_is_minmax():
    config = PostTrainingConfig(percentile=100, images=64, batch_size=64)
    for seen in calibration_ranges(CTX.dense(), CTX, config, "percentile").values():
        lo, hi = seen.choose("percentile", 4, "asymmetric")
        assert lo == seen.lo and hi == seen.hi


def test_percentiles_are_averaged_over_batches():
    x = torch.arange(400.0).reshape(4, 100)
    seen = observed("percentile", x, percentile=75)
    assert seen.choose("percentile", 4, "asymmetric")[1] == torch.stack([row.quantile(0.75) for row in x]).mean()


@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
def test_least_error_range_lies_inside_minmax(scheme):
    x = torch.cat([torch.randn(9999, generator=torch.Generator().manual_seed(2)), torch.tensor([20.0])])
    seen = observed("mse", x, scheme=scheme)
    lo, hi = seen.choose("mse", 4, scheme)
    assert 0.1 <= hi / seen.hi <= 0.54 and lo / seen.lo == pytest.approx((hi / seen.hi).item())


@pytest.mark.parametrize("clipping", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("values", TENSORS)
def test_calibration_on_what_has_no_range_gives_a_grid_that_holds_it(values: str, scheme: str, clipping: str) -> None:
    x, seen = TENSORS[values], InputRange(99.99)
    seen.update(x, clipping, scheme)
    grid = make_grid(*seen.choose(clipping, 4, scheme), 4, scheme, signed=bool(x.min() < 0))
    assert grid.scale > 0 and grid.zero_point.isfinite()
    if values in ("all zero", "all 0.3", "all -0.3"):
        torch.testing.assert_close(grid.fake_quantize(x), x)


@pytest.mark.parametrize("calibration", ["gaussian", "bn"])
def test_noise_is_as_wide_as_the_batch_norms_expect_only_where_they_normalise_it(calibration):
    """On inputs far too large, the layers behind a norm that normalises by the batch see what they saw in training."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).eval()
    model[0].weight.data.mul_(1000)
    config = PostTrainingConfig(calibration=calibration, images=32, batch_size=32)
    seen = calibration_ranges(model, CTX, config, "minmax")["2"]
    assert (seen.hi < 10) == (calibration == "bn")


def test_norms_are_as_before_after_they_normalised_by_the_batch():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False)).eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), normalising_by_batch(model):
        assert all(norm.training for norm in model)
        model(torch.randn(4, 2, 3, 3) + 5)
        raise ZeroDivisionError
    assert [(norm.training, norm.track_running_stats) for norm in model] == [(False, True), (False, False)]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_weights_get_one_range_or_one_per_channel():
    weight = torch.tensor([[[[1.0]], [[-3.0]]], [[[0.5]], [[0.25]]]])
    for per_channel, expected in ((False, (-3.0, 1.0)), (True, ([-3.0, 0.25], [1.0, 0.5]))):
        lo, hi = weight_range(weight, 4, PostTrainingConfig(per_channel=per_channel), "minmax")
        assert (lo.flatten().tolist(), hi.flatten().tolist()) == tuple(
            [e] if isinstance(e, float) else e for e in expected
        )
        assert lo.shape == ((2, 1, 1, 1) if per_channel else ())
