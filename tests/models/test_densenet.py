"""DenseNet: every layer reads all before it; the counts of the papers."""

import pytest
import torch

from compressbench.models.densenet import DenseBlock
from tests.models.counts import CIFAR, IMAGENET, build_meta, check_counts


def test_every_layer_reads_all_maps_before_it_and_adds_its_own() -> None:
    torch.manual_seed(0)
    block, x = DenseBlock(4, 3, 2).eval(), torch.randn(2, 4, 5, 5)
    first = block.layers[0](x)
    second = block.layers[1](torch.cat([x, first], 1))
    assert torch.equal(block(x), torch.cat([x, first, second], 1)) and block.outputs == 4 + 2 * 3


def test_transitions_keep_the_channels_and_halve_the_image() -> None:
    model = build_meta("densenet", depth=10, growth=5)
    widths = [10 + 2 * 5, 10 + 4 * 5, 10 + 6 * 5]  # a stem of twice the growth, two layers a block
    assert [model.body.get_submodule(f"block{b}").outputs for b in range(3)] == widths
    x = torch.zeros(1, 20, 8, 8, device="meta")
    assert model.eval().body.transition0(x).shape == (1, 20, 4, 4)


# fmt: off
# architecture, arguments, input, params, conv + linear weights, MACs, weight layers, batch norms, ReLUs
PUBLISHED = {
    "FFSD DenseNet-40-12": ("densenet", {"classes": 100}, CIFAR, 1_100_428, None, 282_958_368, 40, 39, 39),
    "torchvision DenseNet-121": ("densenet121", {}, IMAGENET, 7_978_856, None, None, 121, 121, 121),
}
# fmt: on


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_it_has_the_published_counts(row: tuple) -> None:
    check_counts(*row)
