"""Tests of the forms of a layer: each computes what the layer computes, and none exists where its kernel would not."""

import pytest
import torch
from torch import Tensor, nn

from compressbench.kernels import native
from compressbench.models.resnet import PadShortcut
from compressbench.pruning.blocks import random_block_mask
from compressbench.runtimes.native import forms

INFINITY = float("inf")
X = torch.randn(1, 8, 9, 9, generator=torch.Generator().manual_seed(0))


def convolution(**settings: object) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(**{"in_channels": 8, "out_channels": 16, "kernel_size": 3, "padding": 1} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("clip", [(-INFINITY, INFINITY), (0.0, INFINITY), (0.0, 0.5)])
def test_every_dense_form_computes_the_clipped_sum(clip: tuple[float, float]) -> None:
    layer, residual = convolution(kernel_size=1, padding=0), torch.randn(1, 16, 9, 9)
    with torch.no_grad():
        found = dict(forms.dense_forms(layer, X, clip))
        expected = (layer(X) + residual).clamp(*clip)
        for name, form in found.items():
            torch.testing.assert_close(form(X, residual), expected, rtol=1e-4, atol=1e-5, msg=name)
    assert {"dense", "dense GEMM"} <= found.keys()


@pytest.mark.parametrize("masked", [False, True], ids=["all blocks", "masked"])
def test_our_form_of_a_layer_is_called_by_its_blocks(masked: bool) -> None:
    layer = convolution()
    mask = random_block_mask(layer.weight, 4, 0.5, torch.Generator().manual_seed(1))
    with torch.no_grad():
        if masked:
            layer.weight.mul_(mask)
        ((name, form),) = forms.own_forms(layer, (mask, 4) if masked else None, X, (-INFINITY, INFINITY)).items()
        torch.testing.assert_close(form(X), layer(X), rtol=1e-4, atol=1e-4)
    assert name == ("block-sparse 1x4" if masked else "dense blocks")


@pytest.mark.parametrize(
    "settings",
    [
        {"dilation": 2},
        {"padding_mode": "reflect"},
        {"groups": 2},
        {"stride": (1, 2)},
        {"padding": 3},
        {"padding": "same"},
    ],
    ids=str,
)
def test_a_geometry_without_a_kernel_has_no_form_of_ours(settings: dict[str, object]) -> None:
    assert forms.own_forms(convolution(**settings), None, X, (-INFINITY, INFINITY)) == {}


def test_a_mask_whose_blocks_do_not_divide_the_filters_has_no_form_of_ours() -> None:
    layer = convolution(out_channels=6)
    assert forms.own_forms(layer, (torch.ones_like(layer.weight, dtype=torch.bool), 4), X, (0.0, 1.0)) == {}


@pytest.mark.skipif(not native.is_built(), reason="there was no C++ compiler to build the kernels")
@pytest.mark.parametrize(
    "module",
    [
        nn.AdaptiveAvgPool2d(1),
        PadShortcut(8, 16, 2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((2, 2)),
        nn.AvgPool2d(2, ceil_mode=True),
    ],
    ids=["global mean", "padded shortcut", "max pool", "max pool without padding", "mean"],
)
def test_other_operations_on_our_kernels_compute_the_same(module: nn.Module) -> None:
    own = forms.own_operation(module, X.shape)
    assert own is not None
    torch.testing.assert_close(own(X), module(X), rtol=1e-5, atol=1e-5)


def test_an_operation_that_no_kernel_knows_stays_with_torch() -> None:
    assert forms.own_operation(nn.AdaptiveAvgPool2d(2), X.shape) is None
    assert forms.own_operation(nn.AvgPool2d(3, padding=1), X.shape) is None
    assert forms.own_operation(nn.Sigmoid(), X.shape) is None


def test_a_max_pooling_is_the_faster_of_two_that_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = nn.MaxPool2d(2)
    for choose in (min, max):
        monkeypatch.setattr(forms, "fastest", lambda calls, choose=choose, **_: choose(calls, key=lambda m: m is pool))
        y: Tensor = forms.fastest_pool(pool, X.shape)(X)
        assert torch.equal(y, pool(X)) and y.is_contiguous()
    assert forms.fastest_pool(other := nn.AvgPool2d(2), X.shape) is other
