"""Batch-norm folding keeps the function of every architecture."""

import pytest
import torch
from torch import fx, nn

from compressbench import models
from compressbench.layers.folding import FoldedNorm, convolution_norm_pairs, fold_norms, fold_norms_into_linears

SMALL = [
    ("resnet_cifar", {"blocks": (1, 1, 1), "widths": (4, 8, 8), "shortcut": "conv"}, 3),
    ("resnet_cifar", {"blocks": (1, 1, 1), "widths": (4, 8, 8), "shortcut": "pad"}, 3),
    ("plain", {"in_channels": 3}, 3),
    ("mobilenet_mini", {"in_channels": 3}, 3),
    ("mobilenet_v2", {}, 3),
    ("resnet50", {}, 3),
    ("srresnet", {"blocks": 1, "channels": 8}, 3),
]


@pytest.mark.parametrize(("architecture", "arguments", "channels"), SMALL)
def test_folded_network_is_the_same_function(architecture, arguments, channels):
    torch.manual_seed(0)
    model = models.build(architecture, **arguments).double().eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.1)
    x = torch.randn(2, channels, 32, 32, dtype=torch.float64)
    expected = model(x)
    assert len(convolution_norm_pairs(model)) == len(norms)
    folded = fold_norms(model)
    assert sum(isinstance(m, FoldedNorm) for m in folded.modules()) == len(norms)
    torch.testing.assert_close(folded(x), expected, rtol=1e-9, atol=1e-9)


def test_norm_of_a_shared_convolution_output_is_left_alone():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    assert convolution_norm_pairs(Shared()) == []


def test_a_convolution_that_is_used_twice_is_folded_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)) + self.norm(self.conv(x.flip(2)))

    model = Twice().eval()
    model.norm.running_var.fill_(4.0)
    x = torch.randn(1, 1, 6, 6)
    expected = model(x)
    assert convolution_norm_pairs(model) == [("conv", "norm")]
    assert torch.allclose(fold_norms(model)(x), expected, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 6), (1, 6, 6)])
def test_a_norm_of_vectors_goes_into_the_linear_layer_and_one_of_rows_stays(bias: bool, shape: tuple[int, ...]) -> None:
    """A linear layer reads the last dimension, a norm the second one: the same of vectors only."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3, bias)).double().eval()
    model[0].running_mean.normal_()
    model[0].running_var.uniform_(0.5, 2)
    nn.init.normal_(model[0].weight)
    x = torch.randn(shape, dtype=torch.float64)
    expected = model(x)
    folded = fold_norms_into_linears(fx.symbolic_trace(model), x)
    assert isinstance(folded.get_submodule("0"), FoldedNorm) is (len(shape) == 2)
    torch.testing.assert_close(folded(x), expected)
