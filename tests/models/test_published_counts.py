"""Architectures against the parameter, layer and MAC counts of the papers' tables (no weights are allocated)."""

import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.accounting import account, layer_table, macs_per_pixel, weight_layers

IMAGENET, CIFAR, FASHION = (3, 224, 224), (3, 32, 32), (1, 28, 28)
CONV = {"classifier": "conv"}
RESNET_MINI = {"blocks": [1, 1, 1], "in_channels": 1, "stem_stride": 2, "classifier": "conv"}
RESNET_8 = {"blocks": [1, 1, 1], "in_channels": 1, "shortcut": "conv"}
WIDE_50 = {"blocks": [8, 8, 8], "widths": [32, 64, 128], "classifier": "conv"}


def build_meta(architecture: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return models.build(architecture, **arguments)


# fmt: off
# architecture, arguments, input, params, conv + linear weights, MACs, weight layers, batch norms, ReLUs
CLASSIFIERS = {
    "OptG ResNet-50": ("resnet50", CONV, IMAGENET, 25_556_032, 25_502_912, 4_089_184_256, 54, 53, 49),
    "OptG MobileNet-V1": ("mobilenet_v1", CONV, IMAGENET, 4_230_976, 4_209_088, 568_740_352, 28, 27, 27),
    "OptG CIFAR ResNet-50": ("resnet_cifar", WIDE_50, CIFAR, 3_013_792, 3_006_560, 444_433_664, 50, 49, 49),
    "OptG VGG-19, 10": ("vgg", {}, CIFAR, 20_035_018, 20_024_000, 398_136_320, 17, 16, 16),
    "OptG VGG-19, 100": ("vgg", {"classes": 100}, CIFAR, 20_081_188, 20_070_080, 398_182_400, 17, 16, 16),
    "OptG desk n=1": ("resnet_cifar", RESNET_MINI, FASHION, None, 74_512, None, 8, 7, 7),
    "OptG desk n=2": ("resnet_cifar", RESNET_MINI | {"blocks": [2, 2, 2]}, FASHION, None, 171_280, None, 14, 13, 13),
    "1xN MobileNet-V1": ("mobilenet_v1", {}, IMAGENET, 4_231_976, 4_209_088, 568_740_352, 28, 27, 27),
    "1xN MobileNet-V2": ("mobilenet_v2", {}, IMAGENET, 3_504_872, 3_469_760, 300_774_272, 53, 52, 35),
    "1xN MobileNet-V3-small": ("mobilenet_v3_small", {}, IMAGENET, 2_542_856, 2_525_832, 56_510_400, 54, 34, None),
    "1xN MobileNet-V3-large": ("mobilenet_v3_large", {}, IMAGENET, 5_483_032, 5_451_272, 216_589_760, 64, 46, None),
    "1xN ResNet-50": ("resnet50", {}, IMAGENET, 25_557_032, 25_502_912, 4_089_184_256, 54, 53, 49),
    "IntraQ ResNet-20, 10": ("resnet_cifar", {"shortcut": "conv"}, CIFAR, 272_474, 270_896, 40_813_184, 22, 21, 19),
    "IntraQ ResNet-20, 100": (
        "resnet_cifar", {"shortcut": "conv", "classes": 100}, CIFAR, 278_324, 276_656, 40_818_944, 22, 21, 19,
    ),
    "IntraQ ResNet-18": ("resnet18", {}, IMAGENET, 11_689_512, 11_678_912, 1_814_073_344, 21, 20, 17),
    "IntraQ MobileNetV1": ("mobilenet_v1", {}, IMAGENET, 4_231_976, 4_209_088, 568_740_352, 28, 27, 27),
    "IntraQ MobileNetV2": ("mobilenet_v2", {"variant": "zoo"}, IMAGENET, 3_504_960, 3_470_784, 313_619_328, 54, 53, 36),
    "IntraQ ResNet-8": ("resnet_cifar", RESNET_8, FASHION, 77_754, 77_072, 9_345_920, 10, 9, 7),
    "IntraQ ResNet-20, 28x28": (
        "resnet_cifar", {"shortcut": "conv", "in_channels": 1}, FASHION, 272_186, 270_608, 31_021_952, 22, 21, 19,
    ),
    "CIFAR VGG-16": (
        "vgg", {"depth": 16, "conv_bias": True}, CIFAR, 14_728_266, None, 313_201_664, 14, 13, 13,
    ),
    "CIFAR ResNet-56": ("resnet_cifar", {"blocks": [9, 9, 9]}, CIFAR, 853_018, None, 125_485_696, 56, 55, 55),
    "CIFAR ResNet-110": ("resnet_cifar", {"blocks": [18, 18, 18]}, CIFAR, 1_727_962, None, 252_887_680, 110, 109, 109),
    "CIFAR GoogLeNet": ("googlenet", {}, CIFAR, 6_166_250, None, 1_521_756_160, 65, 64, 64),
    "CIFAR MobileNet-V2": (
        "mobilenet_v2", {"variant": "cifar", "classes": 10}, CIFAR, 2_297_754, None, 304_075_264, 59, 58, 36,
    ),
    "FFSD ResNet-32": (
        "resnet_cifar", {"blocks": [5, 5, 5], "shortcut": "conv", "classes": 100}, CIFAR, 472_756, None, 69_130_496,
        34, 33, 31,
    ),
    "FFSD WRN-16-2": ("wide_resnet", {"classes": 100}, CIFAR, 704_420, None, 129_430_016, 17, 13, 13),
    "FFSD WRN-40-2": ("wide_resnet", {"depth": 40, "classes": 100}, CIFAR, 2_258_084, None, 355_922_432, 41, 37, 37),
    "FFSD DenseNet-40-12": ("densenet", {"classes": 100}, CIFAR, 1_100_428, None, 282_958_368, 40, 39, 39),
    "FFSD GoogLeNet": ("googlenet", {"classes": 100}, CIFAR, 6_258_500, None, 1_521_848_320, 65, 64, 64),
    "ResNet-34": ("resnet34", {}, IMAGENET, None, None, 3_663_761_408, 37, 36, 33),
}
# fmt: on


@pytest.mark.parametrize("row", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_classifier_has_the_published_counts(row: tuple) -> None:
    architecture, arguments, shape, *published = row
    given = [i for i, value in enumerate(published) if value is not None]
    model = build_meta(architecture, **arguments)
    counts = account(model, shape)
    rows = layer_table(model, shape)
    kinds = [row.kind for row in rows]
    weighted = sum(kind in ("conv", "linear") for kind in kinds)
    found = [counts.params, counts.weights, counts.macs, weighted, kinds.count("norm"), kinds.count("activation")]
    assert [found[i] for i in given] == [published[i] for i in given]


BODY = ("blocks.", "global_")
# architecture, scale, params, quantized weights, quantized and full-precision MACs per low-resolution pixel, points
SUPER_RESOLUTION = [
    ("edsr", 4, 1_517_595, 1_179_648, 1_179_648, 803_673, 48),
    ("edsr", 2, 1_369_883, 1_179_648, 1_179_648, 193_005, 48),
    ("rdn", 4, 22_271_107, 21_925_888, 21_925_888, 803_520, 145),
    ("rdn", 2, 22_123_395, 21_925_888, 21_925_888, 192_960, 145),
    ("srresnet", 4, 1_546_771, 1_179_648, 1_179_648, 1_038_528, 32),
    ("srresnet", 2, 1_399_314, 1_179_648, 1_179_648, 262_080, 32),
]


@pytest.mark.parametrize("row", SUPER_RESOLUTION, ids=lambda row: f"{row[0]} x{row[1]}")
def test_super_resolution_network_has_the_published_counts(row: tuple) -> None:
    architecture, scale, params, weights, quantized, full, points = row
    model = build_meta(architecture, scale=scale)
    pixels = 8 * 8
    body = [r for r in layer_table(model, (3, 8, 8)) if r.kind == "conv" and r.name.startswith(BODY)]
    assert sum(p.numel() for p in model.parameters()) == params
    assert sum(layer.weight.numel() for name, layer in weight_layers(model) if name.startswith(BODY)) == weights
    assert sum(r.macs for r in body) == quantized * pixels
    assert macs_per_pixel(model) == quantized + full
    assert sum(type(layer) is nn.Identity for layer in model.modules()) == points


def test_desk_edsr_has_the_published_counts() -> None:
    model = build_meta("edsr", blocks=4, channels=16, scale=2, mean_shift=False)
    body = [layer.weight.numel() for name, layer in weight_layers(model) if name.startswith(BODY)]
    assert sum(p.numel() for p in model.parameters()) == 31_043
    assert (sum(body), macs_per_pixel(model)) == (18_432, 32_112)


def test_plain_mini_has_about_seventy_thousand_parameters() -> None:
    model = build_meta("plain")
    convs, fc = 9 * (1 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64), 64 * 10
    assert account(model, FASHION).weights == convs + fc
    assert sum(p.numel() for p in model.parameters()) == convs + fc + 10 + 2 * (16 + 32 + 32 + 64 + 64)


def test_mobilenet_mini_has_the_widths_of_its_description() -> None:
    model = build_meta("mobilenet_mini")
    pointwise = [layer.out_channels for name, layer in weight_layers(model) if "pointwise" in name]
    assert model.stem.conv.out_channels == 16
    assert pointwise == [32, 64, 64, 128, 128]


@pytest.mark.parametrize("architecture, features", [
    ("resnet_cifar", 64), ("resnet18", 512), ("mobilenet_v1", 1024), ("mobilenet_v2", 1280),
])  # fmt: skip
def test_pooled_features_have_the_published_width(architecture: str, features: int) -> None:
    model = build_meta(architecture).eval()
    assert model.features(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, features)
