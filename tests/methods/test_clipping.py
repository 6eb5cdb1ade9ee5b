"""Percentile and least-squared-error ranges."""

import torch

from methods.baselines.clipping.method import Clipping
from tests.contexts.calibration import CTX, X, quantized_layers


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
