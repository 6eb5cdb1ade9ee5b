"""EfficientNet-Lite0: the counts of the paper's network, and TensorFlow's padding."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.models import pretrained
from compressbench.models.structure import conv_unit
from compressbench.seeding import generator
from tests.models.counts import IMAGENET, check_counts
from tests.models.test_pretrained import LITE0

# fmt: off
# architecture, arguments, input, params, conv + linear weights, MACs, weight layers, batch norms, ReLUs
PUBLISHED = {"EfficientNet-Lite0": ("efficientnet_lite0", {}, IMAGENET, 4_652_008, None, None, 50, 49, 33)}
# fmt: on


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_it_has_the_published_counts(row: tuple) -> None:
    check_counts(*row)


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_stride_of_two_pads_one_pixel_more_behind_than_in_front(kernel: int) -> None:
    unit = conv_unit(2, 3, kernel, 2, activation=None, same=True).eval()
    x, total = torch.randn(1, 2, 8, 8, generator=generator("image")), (8 // 2 - 1) * 2 + kernel - 8
    padded = nn.functional.pad(x, (total // 2, total - total // 2) * 2)
    expected = unit.bn(nn.functional.conv2d(padded, unit.conv.weight, stride=2))
    assert torch.equal(unit(x), expected) and unit(x).shape[-2:] == (4, 4)


def test_logits_are_those_of_the_network_that_the_weights_were_published_for() -> None:
    published = pytest.importorskip("efficientnet_lite_pytorch")
    original = published.EfficientNet.from_name("efficientnet-lite0").eval()
    file, _ = pretrained.locate(LITE0, Path())
    original.load_state_dict(torch.load(file, weights_only=True))
    ours = models.build("efficientnet_lite0").eval()
    pretrained.load(ours, LITE0, Path())
    images = torch.randn(1, 3, 224, 224, generator=generator("images"))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), original(images))
