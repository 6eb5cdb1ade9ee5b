"""Counts of binary networks, worked by hand."""

import pytest
import torch

from compressbench import models
from compressbench.layers.binary import OneBitConv2d, binarise
from compressbench.quantization.binary_counts import BINARY_NETWORKS, binary_counts, counts_of_binary_networks


@pytest.mark.parametrize("scaled", [False, True])
def test_counts_of_two_binary_convolutions_between_a_stem_and_a_classifier(scaled: bool) -> None:
    with torch.device("meta"):
        model = models.build("binary_resnet_cifar", blocks=[1], widths=[4], in_channels=1, classes=3)
    binarise(model, lambda layer: OneBitConv2d.rebuild(layer, {"scaled": scaled, "centred": False}))
    counts = binary_counts(model, (1, 8, 8))
    weights, scales, rest = (
        2 * 4 * 4 * 9,
        8 * scaled,
        4 * 9 + 3 * 8 + 8 + (4 * 3 + 3),
    )  # stem, 3 norms, last norm, classifier
    real, binary = 64 * 4 * 9 + 4 * 3, 64 * weights
    stored = weights // 8 + 4 * (scales + rest)
    assert counts == {
        "binary_convolutions": 2, "binary_weights": weights, "scales": scales, "params": weights + scales + rest,
        "binary_macs": binary, "float_macs": real, "ops": real + binary // 64,
        "macs_per_op": pytest.approx((real + binary) / (real + binary // 64)),
        "stored_mb": pytest.approx(stored / 1e6), "compression": pytest.approx(4 * (weights + rest) / stored),
    }  # fmt: skip


def test_every_published_network_is_counted_in_the_form_of_the_method() -> None:
    recomputed = counts_of_binary_networks("recu", "w1a1")
    convolutions = {count.model: count.value for count in recomputed if count.metric == "binary_convolutions"}
    assert convolutions == {
        "binary_resnet20": 18, "binary_resnet18_cifar": 16, "binary_vgg_small": 5, "binary_resnet18": 16,
        "binary_resnet34": 32,
    }  # fmt: skip
    assert {count.setting for count in recomputed} == {"w1a1"} and len(recomputed) == 10 * len(BINARY_NETWORKS)
