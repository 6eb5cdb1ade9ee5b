"""The activations of binary networks' forms in networks that have ReLU."""

import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.errors import UserError

RESNET = ("resnet_cifar", {"blocks": [1, 1, 1], "in_channels": 1, "shortcut": "conv"})
PLAIN = ("plain", {"in_channels": 1})


def build(architecture: str, **arguments: object) -> models.Network:
    torch.manual_seed(0)
    return models.build(architecture, **arguments)


@pytest.mark.parametrize(("architecture", "arguments"), [RESNET, PLAIN])
def test_a_form_changes_activations_and_nothing_else(architecture: str, arguments: dict) -> None:
    plain, siman = (build(architecture, **arguments, form=form) for form in ("relu", "siman"))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, siman.state_dict()[name]), name
    slopes = [m for m in siman.modules() if isinstance(m, nn.PReLU)]
    rectified = [m for m in siman.modules() if isinstance(m, nn.ReLU)]
    assert len(rectified) == 1 and len(slopes) + 1 == sum(isinstance(m, nn.ReLU) for m in plain.modules())
    assert not any(isinstance(m, nn.ReLU) for m in build(architecture, **arguments, form="recu").modules())


@pytest.mark.parametrize(("architecture", "arguments"), [RESNET, PLAIN])
def test_a_slope_has_the_channels_that_it_reads(architecture: str, arguments: dict) -> None:
    model = build(architecture, **arguments, form="siman").eval()
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            module.register_forward_pre_hook(lambda m, x: check(m.num_parameters, x[0].shape[1]))

    def check(slopes: int, channels: int) -> None:
        assert slopes == channels

    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_stem_shortcuts_and_classifier_keep_full_precision() -> None:
    names = build(RESNET[0], **RESNET[1]).binary_convolutions()
    assert names == tuple(f"stages.{s}.0.conv{i}" for s in range(3) for i in (1, 2))
    assert build(PLAIN[0], **PLAIN[1]).binary_convolutions() == tuple(f"body.{i}.conv" for i in range(1, 5))
    with torch.device("meta"):
        assert models.build("resnet18").binary_convolutions() == ()


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(UserError, match="form must be one of relu, recu, siman"):
        build("plain", in_channels=1, form="sign")
