"""What the tests of the data-free methods share."""

import torch
from torch import Tensor, nn

from compressbench import models


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Given:
    """What a method needs of a context: a dense model and a place for records. No data."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.records: dict[str, float] = {}

    def dense(self) -> nn.Module:
        return self.model

    def record(self, name: str, value: float) -> None:
        self.records[name] = value


def plain(*widths: int, seed: int = 0, **arguments: object) -> nn.Module:
    """A plain network in double precision with batch norms that do something, some γ negative."""
    torch.manual_seed(seed)
    model: nn.Module = models.build("plain", widths=widths, strides=(1,) * len(widths), **arguments).double().eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1, 0.6)
            nn.init.normal_(m.bias, 0, 0.5)
            m.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            m.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model
