"""The networks of binary methods: which layers are binary, whose form does what, shapes and starts."""

import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.errors import UserError


def build(architecture: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return models.build(architecture, **arguments)


@pytest.mark.parametrize("form", ["relu", "recu", "siman"])
@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("binary_resnet_cifar", (3, 32, 32)),
        ("binary_resnet18_cifar", (3, 32, 32)),
        ("binary_vgg_small", (3, 32, 32)),
        ("binary_resnet18", (3, 64, 64)),
    ],
)
def test_every_form_runs(architecture: str, shape: tuple[int, ...], form: str) -> None:
    model = build(architecture, classes=7, form=form).eval()
    assert model(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("architecture", "recu", "siman"),
    [
        ("binary_resnet_cifar", 18, 18),
        ("binary_resnet18_cifar", 16, 19),
        ("binary_vgg_small", 5, 5),
        ("binary_resnet18", 16, 16),
        ("binary_resnet34", 32, 32),
    ],
)
def test_stem_classifier_and_real_shortcuts_keep_full_precision(architecture: str, recu: int, siman: int) -> None:
    for form, count in (("recu", recu), ("siman", siman)):
        with torch.device("meta"):
            model = models.build(architecture, form=form)
        names = model.binary_convolutions()
        convolutions = {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        assert len(names) == count and set(names) <= convolutions
        rest = convolutions - set(names)
        assert all(name.startswith("stem") or "shortcut" in name for name in rest)


def test_activations_and_shortcuts_are_the_authors() -> None:
    def kinds(architecture: str, form: str) -> set[type]:
        with torch.device("meta"):
            modules = models.build(architecture, form=form).modules()
        return {type(m) for m in modules} & {nn.ReLU, nn.Hardtanh, nn.PReLU, nn.AvgPool2d}

    assert kinds("binary_resnet_cifar", "recu") == {nn.Hardtanh, nn.AvgPool2d}
    assert kinds("binary_resnet_cifar", "siman") == {nn.ReLU, nn.PReLU}
    assert kinds("binary_resnet_cifar", "relu") == {nn.ReLU}
    assert kinds("binary_resnet18_cifar", "recu") == {nn.Hardtanh, nn.AvgPool2d}
    assert kinds("binary_resnet18_cifar", "siman") == {nn.Hardtanh}
    assert kinds("binary_vgg_small", "siman") == {nn.PReLU}
    assert kinds("binary_resnet34", "recu") == {nn.Hardtanh}
    assert kinds("binary_resnet34", "siman") == {nn.ReLU, nn.PReLU}


def test_a_skip_around_every_convolution_or_every_two() -> None:
    double, single = build("binary_resnet_cifar"), build("binary_resnet18_cifar")
    assert [len(block.body) for block in double.stages[0]] == [1] * 6
    assert [len(block.body) for block in single.stages[0]] == [2] * 2


def test_the_pooling_shortcut_averages_and_pads_channels_on_both_sides() -> None:
    shortcut = build("binary_resnet_cifar", widths=[4, 8, 16], form="recu").stages[1][0].shortcut
    x = torch.randn(1, 4, 6, 6)
    y = shortcut(x)
    torch.testing.assert_close(y[:, 2:6], nn.functional.avg_pool2d(x, 2))
    assert y.shape == (1, 8, 3, 3) and not y[:, :2].any() and not y[:, 6:].any()


def test_odd_images_fit() -> None:
    model = build("binary_resnet_cifar", blocks=[1, 1, 1], in_channels=1, stem_stride=2, form="recu").eval()
    assert model(torch.randn(1, 1, 28, 28)).shape == (1, 10)  # 14, 7, 4 pixels


def test_imagenet_networks_of_the_authors_start_as_their_shortcuts() -> None:
    for form, value in (("relu", 1.0), ("recu", 1e-8), ("siman", 1e-8)):
        model = build("binary_resnet18", form=form)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all((norm.weight == torch.tensor(value)).all() for norm in norms)
        assert (model.norm.weight == 1).all()


@pytest.mark.parametrize(
    ("architecture", "form", "std"),
    [
        ("binary_resnet_cifar", "recu", (2 / 576) ** 0.5),
        ("binary_vgg_small", "recu", (2 / (9 * 512)) ** 0.5),
        ("binary_resnet18_cifar", "siman", (1 / 3 / 4608) ** 0.5),
        ("binary_resnet18_cifar", "recu", (2 / 4608) ** 0.5),
    ],
)
def test_latent_weights_start_as_published(architecture: str, form: str, std: float) -> None:
    model = build(architecture, form=form)
    last = [name for name in model.binary_convolutions() if "shortcut" not in name][-1]
    assert model.get_submodule(last).weight.std().item() == pytest.approx(std, rel=0.03)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(UserError, match="form must be one of relu, recu, siman, not 'xnor'"):
        models.build("binary_resnet18", form="xnor")
