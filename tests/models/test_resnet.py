"""Residual networks: shortcuts, start, counts of the papers."""

import pytest
import torch

from compressbench import models
from tests.models.counts import CIFAR, FASHION, IMAGENET, build_meta, check_counts

CONV = {"classifier": "conv"}
MINI = {"blocks": [1, 1, 1], "in_channels": 1, "stem_stride": 2, "classifier": "conv"}
RESNET_8 = {"blocks": [1, 1, 1], "in_channels": 1, "shortcut": "conv"}
WIDE_50 = {"blocks": [8, 8, 8], "widths": [32, 64, 128], "classifier": "conv"}


def test_pad_shortcut_subsamples_and_pads_channels_on_both_sides() -> None:
    shortcut = models.build("resnet_cifar", widths=[4, 8, 16]).stages[1][0].shortcut
    x = torch.arange(64.0).reshape(1, 4, 4, 4)
    y = shortcut(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y.shape == (1, 8, 2, 2) and not y[:, :2].any() and not y[:, 6:].any()


def test_residual_networks_start_from_kaiming_normal() -> None:
    torch.manual_seed(0)
    weight = models.build("resnet50").stages[3][0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.01)


def test_a_stage_halves_the_image_where_it_widens_and_bottlenecks_do_so_in_the_middle() -> None:
    basic, bottleneck = build_meta("resnet_cifar", blocks=[2, 2, 2]), build_meta("resnet50")
    strides = {name: m.stride[0] for name, m in basic.named_modules() if getattr(m, "stride", 1) == (2, 2)}
    assert strides == {"stages.1.0.conv1": 2, "stages.2.0.conv1": 2}, "slicing shortcuts have no convolution"
    for stage in (1, 2, 3):
        block = bottleneck.stages[stage][0]
        assert [getattr(block, f"conv{i}").stride for i in (1, 2, 3)] == [(1, 1), (2, 2), (1, 1)]


def test_a_basic_block_is_its_equation() -> None:
    torch.manual_seed(0)
    block = models.build("resnet_cifar", shortcut="conv").stages[1][0].eval()
    x = torch.randn(2, 16, 8, 8)
    inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    torch.testing.assert_close(block(x), (inner + block.shortcut(x)).relu())


@pytest.mark.parametrize(("architecture", "features"), [("resnet_cifar", 64), ("resnet18", 512)])
def test_pooled_features_have_the_published_width(architecture: str, features: int) -> None:
    model = build_meta(architecture).eval()
    assert model.features(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, features)


# fmt: off
# architecture, arguments, input, params, conv + linear weights, MACs, weight layers, batch norms, ReLUs
PUBLISHED = {
    "OptG ResNet-50": ("resnet50", CONV, IMAGENET, 25_556_032, 25_502_912, 4_089_184_256, 54, 53, 49),
    "OptG CIFAR ResNet-50": ("resnet_cifar", WIDE_50, CIFAR, 3_013_792, 3_006_560, 444_433_664, 50, 49, 49),
    "OptG desk n=1": ("resnet_cifar", MINI, FASHION, None, 74_512, None, 8, 7, 7),
    "OptG desk n=2": ("resnet_cifar", MINI | {"blocks": [2, 2, 2]}, FASHION, None, 171_280, None, 14, 13, 13),
    "1xN ResNet-50": ("resnet50", {}, IMAGENET, 25_557_032, 25_502_912, 4_089_184_256, 54, 53, 49),
    "IntraQ ResNet-20, 10": ("resnet_cifar", {"shortcut": "conv"}, CIFAR, 272_474, 270_896, 40_813_184, 22, 21, 19),
    "IntraQ ResNet-20, 100": (
        "resnet_cifar", {"shortcut": "conv", "classes": 100}, CIFAR, 278_324, 276_656, 40_818_944, 22, 21, 19,
    ),
    "IntraQ ResNet-18": ("resnet18", {}, IMAGENET, 11_689_512, 11_678_912, 1_814_073_344, 21, 20, 17),
    "IntraQ ResNet-8": ("resnet_cifar", RESNET_8, FASHION, 77_754, 77_072, 9_345_920, 10, 9, 7),
    "IntraQ ResNet-20, 28x28": (
        "resnet_cifar", {"shortcut": "conv", "in_channels": 1}, FASHION, 272_186, 270_608, 31_021_952, 22, 21, 19,
    ),
    "CIFAR ResNet-56": ("resnet_cifar", {"blocks": [9, 9, 9]}, CIFAR, 853_018, None, 125_485_696, 56, 55, 55),
    "CIFAR ResNet-110": ("resnet_cifar", {"blocks": [18, 18, 18]}, CIFAR, 1_727_962, None, 252_887_680, 110, 109, 109),
    "FFSD ResNet-32": (
        "resnet_cifar", {"blocks": [5, 5, 5], "shortcut": "conv", "classes": 100}, CIFAR, 472_756, None, 69_130_496,
        34, 33, 31,
    ),
    "ResNet-34": ("resnet34", {}, IMAGENET, None, None, 3_663_761_408, 37, 36, 33),
}
# fmt: on


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_it_has_the_published_counts(row: tuple) -> None:
    check_counts(*row)
