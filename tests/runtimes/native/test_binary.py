"""Tests of binary convolutions on the bit-packed kernel."""

import pytest
import torch
from torch import nn

from compressbench.layers.binary import SignConv2d
from compressbench.runtimes.native.binary import PackedLayer, pack_binary

X = torch.randn(1, 16, 7, 7, generator=torch.Generator().manual_seed(0))


def network(**settings: object) -> nn.Sequential:
    """A binary convolution, and a batch norm with statistics of its own."""
    torch.manual_seed(1)
    layer = SignConv2d.rebuild(nn.Conv2d(16, 8, 3, padding=1, bias=False, **settings), {"scaling": "mean"})  # type: ignore[arg-type]
    norm = nn.BatchNorm2d(8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(layer, norm).eval()


@pytest.mark.parametrize("stride", [1, 2])
def test_kernel_and_norm_compute_the_layer_and_its_norm(stride: int) -> None:
    model = network(stride=stride)
    with torch.no_grad():
        expected = model(X)
        packed = pack_binary(model)
        for _ in range(2):
            torch.testing.assert_close(packed(X), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(packed[0], PackedLayer) and isinstance(packed[1], nn.Identity)


def test_a_geometry_that_the_kernel_lacks_is_left_as_it_is() -> None:
    model = network(groups=2)
    layer, norm = model
    assert list(pack_binary(model)) == [layer, norm]
