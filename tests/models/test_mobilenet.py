"""MobileNets: widths, activations, squeeze-excite, counts of the papers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressbench import models
from compressbench.accounting import weight_layers
from compressbench.errors import UserError
from compressbench.models.mobilenet import InvertedResidual, SqueezeExcite, Stage, round_channels
from tests.models.counts import CIFAR, IMAGENET, build_meta, check_counts

CONV = {"classifier": "conv"}


def test_mobilenet_v1_of_the_other_papers_has_relu() -> None:
    with torch.device("meta"):
        other = models.build("mobilenet_v1")
    assert {type(m) for m in other.modules() if isinstance(m, nn.ReLU | nn.ReLU6)} == {nn.ReLU}
    with pytest.raises(UserError, match="activation must be one of"):
        models.build("mobilenet_v1", activation="gelu")


@pytest.mark.parametrize(
    ("channels", "rounded"), [(3, 8), (8.4, 8), (11.9, 16), (17, 16), (36.1, 40), (91, 88), (99, 96)]
)
def test_channels_round_to_the_nearest_eight_and_never_lose_a_tenth(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded


def test_squeeze_excite_scales_every_channel_by_its_gate() -> None:
    torch.manual_seed(0)
    layer, x = SqueezeExcite(6, 2), torch.randn(3, 6, 5, 4)
    hidden = F.linear(x.mean((2, 3)), layer.reduce.weight.flatten(1), layer.reduce.bias).relu()
    gate = ((F.linear(hidden, layer.expand.weight.flatten(1), layer.expand.bias) + 3) / 6).clamp(0, 1)
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


@pytest.mark.parametrize(
    ("inputs", "stage", "is_sum"),
    [
        (6, Stage(3, 12, 6, 1, nn.ReLU6), True),
        (6, Stage(3, 12, 6, 2, nn.ReLU6), False),
        (6, Stage(3, 12, 8, 1, nn.ReLU6), False),
        (6, Stage(3, 12, 8, 1, nn.ReLU6, shortcut=True), True),
        (6, Stage(5, 6, 6, 1, nn.Hardswish, squeeze=True, expand=False), True),
    ],
)
def test_an_inverted_residual_adds_its_input_where_shapes_agree(inputs: int, stage: Stage, is_sum: bool) -> None:
    block = InvertedResidual("block", inputs, stage, nn.BatchNorm2d, None).eval()
    nn.init.zeros_(block.project.bn.weight)  # nothing comes out of the body
    x = torch.randn(2, inputs, 6, 6)
    shortcut = x if block.shortcut is None else block.shortcut(x)
    side = 6 // stage.stride
    assert torch.equal(block(x), shortcut if is_sum else torch.zeros(2, stage.outputs, side, side))
    assert (block.expand is None) != stage.expand and (block.squeeze is not None) == stage.squeeze


@pytest.mark.parametrize(("architecture", "features"), [("mobilenet_v1", 1024), ("mobilenet_v2", 1280)])
def test_pooled_features_have_the_published_width(architecture: str, features: int) -> None:
    model = build_meta(architecture).eval()
    assert model.features(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, features)


# fmt: off
# architecture, arguments, input, params, conv + linear weights, MACs, weight layers, batch norms, ReLUs
PUBLISHED = {
    "OptG MobileNet-V1": ("mobilenet_v1", CONV, IMAGENET, 4_230_976, 4_209_088, 568_740_352, 28, 27, 27),
    "1xN MobileNet-V1": ("mobilenet_v1", {}, IMAGENET, 4_231_976, 4_209_088, 568_740_352, 28, 27, 27),
    "1xN MobileNet-V2": ("mobilenet_v2", {}, IMAGENET, 3_504_872, 3_469_760, 300_774_272, 53, 52, 35),
    "1xN MobileNet-V3-small": ("mobilenet_v3_small", {}, IMAGENET, 2_542_856, 2_525_832, 56_510_400, 54, 34, None),
    "1xN MobileNet-V3-large": ("mobilenet_v3_large", {}, IMAGENET, 5_483_032, 5_451_272, 216_589_760, 64, 46, None),
    "IntraQ MobileNetV1": ("mobilenet_v1", {}, IMAGENET, 4_231_976, 4_209_088, 568_740_352, 28, 27, 27),
    "IntraQ MobileNetV2": ("mobilenet_v2", {"variant": "zoo"}, IMAGENET, 3_504_960, 3_470_784, 313_619_328, 54, 53, 36),
    "CIFAR MobileNet-V2": (
        "mobilenet_v2", {"variant": "cifar", "classes": 10}, CIFAR, 2_297_754, None, 304_075_264, 59, 58, 36,
    ),
}
# fmt: on


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_it_has_the_published_counts(row: tuple) -> None:
    check_counts(*row)


def test_mobilenet_mini_has_the_widths_of_its_description() -> None:
    model = build_meta("mobilenet_mini")
    pointwise = [layer.out_channels for name, layer in weight_layers(model) if "pointwise" in name]
    assert model.stem.conv.out_channels == 16
    assert pointwise == [32, 64, 64, 128, 128]
