"""The plain stack of convolutions."""

import torch
from torch import nn

from compressbench import models
from compressbench.accounting import account
from tests.models.counts import FASHION, build_meta


def test_plain_mini_has_about_seventy_thousand_parameters() -> None:
    model = build_meta("plain")
    convs, fc = 9 * (1 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64), 64 * 10
    assert account(model, FASHION).weights == convs + fc
    assert sum(p.numel() for p in model.parameters()) == convs + fc + 10 + 2 * (16 + 32 + 32 + 64 + 64)


def test_it_is_a_chain_of_convolution_norm_and_relu() -> None:
    torch.manual_seed(0)
    model, x = models.build("plain", widths=[4, 6], strides=[2, 1]).eval(), torch.randn(2, 1, 9, 9)
    y = x
    for unit, stride in zip(model.body, (2, 1), strict=True):
        y = unit.bn(nn.functional.conv2d(y, unit.conv.weight, stride=stride, padding=1)).relu()
    torch.testing.assert_close(model(x), model.classifier(y.mean((2, 3))))


def test_every_width_is_free_and_feeds_the_next_layer() -> None:
    narrow = build_meta("plain", widths=[4, 6, 8], strides=[1, 1, 1], inner_widths={"body.1.conv": 3})
    assert [unit.conv.out_channels for unit in narrow.body] == [4, 3, 8] and narrow.body[2].conv.in_channels == 3
    readers = {coupling.producer: coupling.consumers for coupling in narrow.couplings()}
    assert readers == {"body.0.conv": ("body.1.conv",), "body.1.conv": ("body.2.conv",), "body.2.conv": ("classifier",)}
