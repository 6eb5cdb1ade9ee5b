"""From the class network to the narrow one: batch norms, and layers that are not inherited."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.models import Coupling
from compressbench.models.structure import submodule


def norms_of(coupling: Coupling) -> list[str]:
    """The batch norms of the coupling's convolution and of the depthwise ones that follow."""
    return [norm for _, norm in ((coupling.producer, coupling.norm), *coupling.followers) if norm is not None]


@torch.no_grad()
def scale_norms(model: nn.Module, norms: Iterable[str], factor: Tensor) -> None:
    """γ, β <- μ γ, μ β in place, μ [C]; running statistics stay."""
    for name in norms:
        model.get_parameter(f"{name}.weight").mul_(factor)
        model.get_parameter(f"{name}.bias").mul_(factor)


def fold_masks(
    model: nn.Module, couplings: Mapping[str, Coupling], kept: Mapping[str, Tensor], means: Mapping[str, Tensor]
) -> None:
    """Scale the batch norms of every narrowed coupling by the mean mask of its kept channels, in place."""
    for key, index in kept.items():
        scale_norms(model, norms_of(couplings[key]), means[key][index])


def reset_norms(model: nn.Module, couplings: Iterable[Coupling]) -> None:
    """γ = 1, β = 0, mean 0, variance 1, in place."""
    for name in (norm for coupling in couplings for norm in norms_of(coupling)):
        submodule(model, name, _BatchNorm).reset_parameters()


def renew(model: nn.Module, donor: nn.Module, patterns: Sequence[str]) -> None:
    """Copy the modules that match a shell pattern from `donor`, freshly initialised at the same widths, in place."""
    fresh = dict(donor.named_modules())
    for name, module in model.named_modules():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            module.load_state_dict(fresh[name].state_dict())
