"""GoogLeNet: the concatenations of its inceptions, and the counts of the papers."""

import pytest
import torch
from torch import nn

from compressbench.models.googlenet import Inception
from tests.models.counts import CIFAR, IMAGENET, check_counts

WIDTHS = {"conv1": 2, "reduce3": 3, "conv3": 4, "reduce5": 5, "conv5a": 6, "conv5b": 7, "project": 8}


def test_an_inception_concatenates_its_four_branches_in_the_papers_order() -> None:
    torch.manual_seed(0)
    block, x = Inception(3, WIDTHS).eval(), torch.randn(2, 3, 7, 7)
    branches = [
        block.conv1(x),
        block.conv3(block.reduce3(x)),
        block.conv5b(block.conv5a(block.reduce5(x))),
        block.project(nn.functional.max_pool2d(x, 3, 1, 1)),
    ]
    assert torch.equal(block(x), torch.cat(branches, 1)) and block.outputs == 2 + 4 + 7 + 8


def test_two_3x3_convolutions_see_as_far_as_one_of_5x5() -> None:
    block = Inception(1, WIDTHS).double().eval()
    x = torch.zeros(1, 1, 11, 11, dtype=torch.float64, requires_grad=True)
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.bias)  # no ReLU is closed
    block.conv5b(block.conv5a(block.reduce5(x)))[0, :, 5, 5].sum().backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten().tolist()
    assert rows == list(range(3, 8))


# fmt: off
# architecture, arguments, input, params, conv + linear weights, MACs, weight layers, batch norms, ReLUs
PUBLISHED = {
    "CIFAR GoogLeNet": ("googlenet", {}, CIFAR, 6_166_250, None, 1_521_756_160, 65, 64, 64),
    "FFSD GoogLeNet": ("googlenet", {"classes": 100}, CIFAR, 6_258_500, None, 1_521_848_320, 65, 64, 64),
    "torchvision GoogLeNet": ("googlenet_imagenet", {}, IMAGENET, 6_624_904, None, None, 58, 57, 57),
}
# fmt: on


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_it_has_the_published_counts(row: tuple) -> None:
    check_counts(*row)
