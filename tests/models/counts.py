"""Architectures against the parameter, layer and MAC counts of the papers' tables. No weights are allocated."""

import torch
from torch import nn

from compressbench import models
from compressbench.accounting import account, layer_table

IMAGENET, CIFAR, FASHION = (3, 224, 224), (3, 32, 32), (1, 28, 28)


def build_meta(architecture: str, **arguments: object) -> nn.Module:
    """On the meta device."""
    with torch.device("meta"):
        return models.build(architecture, **arguments)


def check_counts(
    architecture: str, arguments: dict[str, object], shape: tuple[int, int, int], *published: int | None
) -> None:
    """published: params, convolution and linear weights, MACs, weight layers, batch norms, ReLUs; None where no paper says."""
    given = [i for i, value in enumerate(published) if value is not None]
    model = build_meta(architecture, **arguments)
    counts, kinds = account(model, shape), [row.kind for row in layer_table(model, shape)]
    weighted = sum(kind in ("conv", "linear") for kind in kinds)
    found = [counts.params, counts.weights, counts.macs, weighted, kinds.count("norm"), kinds.count("activation")]
    assert [found[i] for i in given] == [published[i] for i in given]
