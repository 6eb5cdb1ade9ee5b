"""Small networks in double precision whose batch norms are not the identity."""

import torch
from torch import Tensor, nn

from compressbench import models


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """In double precision, with batch norms that do something; some γ are negative."""
    source = torch.Generator().manual_seed(seed)
    for m in model.double().eval().modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.normal_(1, 0.6, generator=source)
            m.bias.data.normal_(0, 0.5, generator=source)
            m.running_mean.normal_(0, 0.3, generator=source)
            m.running_var.uniform_(0.5, 2, generator=source)
    return model


def network(architecture: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return lively(models.build(architecture, **arguments))
