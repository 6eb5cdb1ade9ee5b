"""Counts of quantized networks, worked by hand."""

import pytest
from torch import nn

from compressbench import accounting
from compressbench.quantization.quantized_counts import dense_counts, size_counts

NETWORK = nn.Sequential(
    nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.ReLU6(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
)  # fmt: skip
WEIGHTS, REST = 4 * 3 * 9 + 4 * 4 + 4 * 2, 2 * 4 + 2  # scales and shifts of the norm, biases of the classifier


def test_a_dense_network_has_layers_and_quantizers() -> None:
    assert dense_counts(NETWORK, accounting.account(NETWORK, (3, 6, 6))) == {
        "params": WEIGHTS + REST, "weights": WEIGHTS, "macs": 16 * (4 * 3 * 9 + 4 * 4) + 4 * 2, "weight_layers": 3,
        "activation_quantizers": 2, "norm_layers": 1,
    }  # fmt: skip


@pytest.mark.parametrize("bits", [4, 32])
def test_weights_are_stored_at_their_bits_and_the_rest_at_32(bits: int) -> None:
    costs = accounting.account(NETWORK, (3, 6, 6))
    stored = WEIGHTS * bits / 8 + 4 * REST
    assert size_counts(costs, WEIGHTS * bits) == {
        "size_mb": pytest.approx(stored / 1e6), "compression": pytest.approx(4 * (WEIGHTS + REST) / stored)
    }  # fmt: skip
