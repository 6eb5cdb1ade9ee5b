"""Wide residual networks: the counts of the papers, and what their code does otherwise."""

import pytest
import torch
from torch import nn

from compressbench import models
from tests.models.counts import CIFAR, build_meta, check_counts


@pytest.mark.parametrize(("depth", "blocks"), [(10, 1), (16, 2), (40, 6)])
def test_a_stage_has_a_sixth_of_the_depth_less_four_blocks(depth: int, blocks: int) -> None:
    body = build_meta("wide_resnet", depth=depth).body
    assert [len(body.get_submodule(f"stage{s}")) for s in range(3)] == [blocks] * 3


def test_normalisation_comes_first_the_second_convolution_has_the_stride_and_biases_stay() -> None:
    torch.manual_seed(0)
    block = models.build("wide_resnet").body.stage1[0].eval()
    x = torch.randn(1, 32, 8, 8)
    inner = block.conv1(block.bn1(x).relu())
    assert inner.shape == (1, 64, 8, 8)
    torch.testing.assert_close(block(x), block.conv2(block.bn2(inner).relu()) + block.shortcut(x))
    assert block.conv2.stride == (2, 2) and block.conv1.bias is not None and isinstance(block.shortcut, nn.Conv2d)


def test_the_last_norm_remembers_a_tenth() -> None:
    assert build_meta("wide_resnet").body.bn.momentum == 0.9


# fmt: off
# architecture, arguments, input, params, conv + linear weights, MACs, weight layers, batch norms, ReLUs
PUBLISHED = {
    "FFSD WRN-16-2": ("wide_resnet", {"classes": 100}, CIFAR, 704_420, None, 129_430_016, 17, 13, 13),
    "FFSD WRN-40-2": ("wide_resnet", {"depth": 40, "classes": 100}, CIFAR, 2_258_084, None, 355_922_432, 41, 37, 37),
}
# fmt: on


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_it_has_the_published_counts(row: tuple) -> None:
    check_counts(*row)
