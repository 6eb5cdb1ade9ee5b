"""VGG: the networks for CIFAR as the authors of Lottery Jackpots, DCFF and White-Box run them, and those of other stages."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench import models
from tests.models.counts import CIFAR, IMAGENET, build_meta, check_counts

AUTHORS = {
    16: [64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"],
    19: [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}


def authors_logits(depth: int, model: nn.Module, images: Tensor) -> Tensor:
    """conv, batch norm, ReLU for every width, a 2x2 max pool for every M; the average of what is left, the classifier."""
    state = model.state_dict()
    convolutions = [name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")]
    widths = [entry for entry in AUTHORS[depth] if entry != "M"]
    assert [state[f"{name}.conv.weight"].shape[0] for name in convolutions] == widths
    units, x = iter(convolutions), images
    for entry in AUTHORS[depth]:
        if entry == "M":
            x = F.max_pool2d(x, 2)
            continue
        unit = next(units)
        x = F.conv2d(x, state[f"{unit}.conv.weight"], padding=1)
        mean, variance, scale, shift = (
            state[f"{unit}.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.batch_norm(x, mean, variance, scale, shift).relu()
    assert x.shape[2:] == (1, 1)
    return F.linear(x.mean((2, 3)), state["classifier.weight"], state["classifier.bias"])


@pytest.mark.parametrize("depth", [16, 19])
def test_logits_for_cifar_are_those_of_the_authors_network(depth: int) -> None:
    torch.manual_seed(0)
    model = models.build("vgg", depth=depth).double().eval()
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            for tensor in (norm.weight, norm.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                tensor.normal_()
        images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(model(images), authors_logits(depth, model, images), rtol=1e-10, atol=1e-10)


def test_networks_described_by_their_stages_pool_between_stages_only() -> None:
    model = models.build("vgg", in_channels=1, stages=[(2, 4), (2, 8), (2, 8)])
    layers = [type(layer) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.MaxPool2d)]
    stage = [nn.Conv2d] * 2
    assert layers == [*stage, nn.MaxPool2d, *stage, nn.MaxPool2d, *stage]
    assert model.body(torch.zeros(1, 1, 28, 28)).shape == (1, 8, 7, 7)


# fmt: off
# architecture, arguments, input, params, conv + linear weights, MACs, weight layers, batch norms, ReLUs
PUBLISHED = {
    "OptG VGG-19, 10": ("vgg", {}, CIFAR, 20_035_018, 20_024_000, 398_136_320, 17, 16, 16),
    "OptG VGG-19, 100": ("vgg", {"classes": 100}, CIFAR, 20_081_188, 20_070_080, 398_182_400, 17, 16, 16),
    "CIFAR VGG-16": (
        "vgg", {"depth": 16, "conv_bias": True}, CIFAR, 14_728_266, None, 313_201_664, 14, 13, 13,
    ),
    "torchvision VGG-16": ("vgg_imagenet", {}, IMAGENET, 138_365_992, None, None, 16, 13, 15),
    "torchvision VGG-19": ("vgg_imagenet", {"depth": 19}, IMAGENET, 143_678_248, None, None, 19, 16, 18),
}
# fmt: on


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_it_has_the_published_counts(row: tuple) -> None:
    check_counts(*row)


def test_the_last_convolution_before_hidden_layers_has_no_free_width() -> None:
    narrow = build_meta("vgg_imagenet", hidden=[8, 8], inner_widths={"body.0.0.conv": 5})
    keys = [coupling.key for coupling in narrow.couplings()]
    assert len(keys) == 12 and keys[-1] == "body.4.1.conv" and narrow.body[0][0].conv.out_channels == 5
