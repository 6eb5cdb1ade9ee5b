"""A small network with batch norms that have seen data, and what post-training quantization asks of a context."""

from types import SimpleNamespace

import torch
from torch import nn

from compressbench import models
from compressbench.data import Split
from compressbench.layers.quantized import QuantConv2d, QuantLinear


def context() -> SimpleNamespace:
    torch.manual_seed(0)
    model = models.build("resnet_cifar", blocks=(1, 1, 1), widths=(8, 8, 16), in_channels=1, shortcut="conv").train()
    images = torch.randn(64, 1, 16, 16) + 0.5
    for _ in range(30):
        model(images)  # running statistics
    model.eval()
    return SimpleNamespace(
        dense=lambda: load_copy(model), data=SimpleNamespace(train=Split(images, torch.zeros(64, dtype=torch.long))),
        info=SimpleNamespace(channels=1, size=16), device=torch.device("cpu"),
        generator=lambda purpose: torch.Generator().manual_seed(0),
    )  # fmt: skip


def load_copy(model: nn.Module) -> nn.Module:
    copy = models.build(model.spec.architecture, **model.spec.arguments)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


CTX = context()
X = CTX.data.train.images


def quantized_layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, QuantConv2d | QuantLinear)]
