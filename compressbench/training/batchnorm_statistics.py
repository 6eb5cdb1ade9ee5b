"""Running statistics of batch normalisation, recomputed after weights were removed or rounded."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.models.structure import AnyModule


@torch.no_grad()
def recompute_statistics(model: AnyModule, batches: Iterable[Tensor]) -> AnyModule:
    """Replace running means and variances by their plain average over `batches` of inputs [N, ...]; returns the model.

    Train-mode forward passes without gradient; modes and momenta are as before afterwards.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    modes = {m: m.training for m in model.modules()}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    model.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    return model
