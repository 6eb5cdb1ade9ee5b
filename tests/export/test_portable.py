"""What leaves the suite: the deployed network, which reads pixels."""

import pytest
import torch
from torch import nn

from compressbench import models
from compressbench.data.preprocessing import Preprocessing
from compressbench.export.portable import portable
from compressbench.layers.binary import SignConv2d
from compressbench.layers.bounds import BoundedActivation
from compressbench.layers.masked import MaskedConv2d, masked, masked_layers
from compressbench.layers.registry import replace_modules
from tests.runtimes.test_integer import intraq_network

RGB = Preprocessing(16, 16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
RAW = Preprocessing(16, 16, (0.0,) * 3, (1.0,) * 3)


def pixels() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(RGB.mean).view(3, 1, 1)) / torch.tensor(RGB.std).view(3, 1, 1)


def masked_network() -> nn.Module:
    torch.manual_seed(0)
    model = masked(models.build("resnet_cifar", blocks=[1, 1], widths=[4, 8])).eval()
    for layer in masked_layers(model).values():
        layer.mask.copy_(torch.rand_like(layer.weight) > 0.5)
    return model


def test_it_reads_pixels_and_normalises_them() -> None:
    model = masked_network()
    ready = portable(model, RGB)
    assert ready.arithmetic == "fp32" and ready.exact
    torch.testing.assert_close(ready.network(pixels()), model(normalised(pixels())))


def test_raw_pixels_are_read_as_they_are() -> None:
    model = masked_network()
    torch.testing.assert_close(portable(model, RAW).network(pixels()), model(pixels()))
    assert torch.equal(RAW.pixels(pixels()), pixels())
    torch.testing.assert_close(RGB.pixels(normalised(pixels())), pixels())


def test_removed_weights_are_zeros_of_plain_layers() -> None:
    model = masked_network()
    network = portable(model, RAW).network
    assert not any(isinstance(m, MaskedConv2d) for m in network.modules())
    for name, layer in masked_layers(model).items():
        written = network.get_parameter(f"{name}.weight")
        assert bool((written[~layer.mask] == 0).all()), name


def test_quantized_layers_are_integers_where_they_have_such_a_form() -> None:
    ready = portable(intraq_network(4), RGB)
    assert ready.arithmetic == "int8" and not ready.exact
    assert {t.dtype for t in ready.network.buffers()} >= {torch.int8, torch.uint8}


@pytest.mark.parametrize("replaced", ["gate", "sign"])
def test_what_has_no_integer_form_keeps_its_floating_point_one(replaced: str) -> None:
    def replace(_: str, module: nn.Module) -> nn.Module | None:
        if replaced == "gate" and type(module) is nn.ReLU:
            return BoundedActivation(4, gate_channels=4)
        if replaced == "sign" and type(module) is nn.Conv2d and module.in_channels == 4:
            return SignConv2d.rebuild(module, {"scaling": "none"})
        return None

    torch.manual_seed(0)
    model = models.build("plain", widths=[4, 4], strides=[1, 1], in_channels=3)
    model = replace_modules(model, replace).eval()
    expected = model(normalised(pixels()))
    ready = portable(model, RGB)
    assert ready.arithmetic == "simulated"
    torch.testing.assert_close(ready.network(pixels()), expected)
