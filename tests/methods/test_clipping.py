"""Percentile and least-squared-error ranges."""

import pytest
import torch

from compressbench.quantization.post_training import InputRange, PostTrainingConfig, calibration_ranges
from methods.baselines.clipping.method import Clipping
from tests.methods.test_minmax import CTX, X, quantized_layers


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


def test_least_error_weights_are_at_least_as_close_as_minmax():
    from methods.baselines.minmax.method import MinMax

    pairs = zip(
        quantized_layers(Clipping(Clipping.Config(rule="mse", weight_bits=3, images=64)).compress(CTX)),
        quantized_layers(MinMax(MinMax.Config(weight_bits=3, images=64)).compress(CTX)),
        strict=True,
    )
    for clipped, plain in pairs:
        error = [(layer.effective_weight() - layer.weight).square().sum() for layer in (clipped, plain)]
        assert error[0] <= error[1]


def test_both_rules_keep_the_network_alive():
    reference = CTX.dense()(X)
    for rule in ("percentile", "mse"):
        output = Clipping(Clipping.Config(rule=rule, weight_bits=8, activation_bits=8, images=64)).compress(CTX)(X)
        assert torch.nn.functional.cosine_similarity(output, reference).mean() > 0.98
