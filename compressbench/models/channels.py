"""The channels of a coupling, taken from every tensor that is indexed by them, and from the modules that hold these."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.models.structure import Coupling

State = dict[str, Tensor]


def cut(model: nn.Module, couplings: Sequence[Coupling], indices: Mapping[str, Tensor]) -> list[nn.Module]:
    """Leave only channels[index] of the couplings that `indices` names, in place; returns the modules that are smaller now."""
    state, smaller = model.state_dict(), {}
    for name, tensor in select(state, couplings, indices).items():
        if tensor.shape != state[name].shape:
            path, _, attribute = name.rpartition(".")
            smaller[path] = model.get_submodule(path)
            _replace(smaller[path], attribute, tensor)
    for module in smaller.values():
        _state_sizes(module)
    return list(smaller.values())


def _replace(module: nn.Module, attribute: str, tensor: Tensor) -> None:
    old = getattr(module, attribute)
    setattr(
        module,
        attribute,
        nn.Parameter(tensor.detach(), old.requires_grad) if attribute in module._parameters else tensor,
    )


def _state_sizes(module: nn.Module) -> None:
    """What a module says of the sizes of its tensors."""
    weight: Any = module.weight
    if isinstance(module, nn.Conv2d):
        module.groups = len(weight) if module.groups > 1 else 1
        module.out_channels, module.in_channels = len(weight), weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _BatchNorm):
        module.num_features = len(weight)


class _Part(NamedTuple):
    """A run of columns that belongs to one coupling, and those of them that are taken."""

    start: int
    length: int
    taken: Tensor


def select(state: Mapping[str, Tensor], couplings: Sequence[Coupling], indices: Mapping[str, Tensor]) -> State:
    """`state` with channels[index] (int64 [kept]) in place of the channels of every coupling that `indices` names.

    Rows of the producers (filter, bias, mask), their normalisations, the depthwise filters that follow, the outer
    sides of the squeeze-excite layers, and the input columns of every consumer, at their place in a concatenation.
    """
    if unknown := set(indices) - {c.key for c in couplings if not c.padded}:
        raise ValueError(
            f"the order of {min(unknown)}'s channels is not free: it is an output, or a sum or a padding fixes it"
        )
    taken: State = dict(state)
    columns: dict[str, list[_Part]] = {}
    for coupling in (c for c in couplings if c.key in indices):
        weight, index = state[f"{coupling.producer}.weight"], indices[coupling.key]
        outputs = [name for link in coupling.outputs for name in link if name is not None]
        for reader in coupling.consumers:
            columns.setdefault(reader, []).append(_part(coupling, len(weight), index))
        if coupling.gates is not None:
            columns.setdefault(coupling.gates[0], []).append(_Part(0, len(weight), index))
            outputs.append(coupling.gates[1])
        for name in outputs:
            _take(taken, name, index, dim=0)
    for reader, parts in columns.items():
        _take(taken, reader, _columns(parts, state[f"{reader}.weight"]), dim=1)
    return taken


def _part(coupling: Coupling, channels: int, index: Tensor) -> _Part:
    pixels = torch.arange(coupling.pixels, device=index.device)
    spread = (index[:, None] * coupling.pixels + pixels).flatten()
    return _Part(coupling.offset, channels * coupling.pixels, spread)


def _columns(parts: Sequence[_Part], weight: Tensor) -> Tensor:
    """The columns of a weight [rows, columns, ...] that stay: of the parts those that they take, between them all."""
    stay, end = [], 0
    for start, length, taken in sorted(parts, key=lambda part: part.start):
        stay += [torch.arange(end, start, device=taken.device), start + taken]
        end = start + length
    return torch.cat([*stay, torch.arange(end, weight.shape[1], device=weight.device)])


def _take(state: State, module: str, index: Tensor, dim: int) -> None:
    """Select channels of every tensor of one module; scalars (batch counters) and, at dim 1, biases stay."""
    for suffix in ("weight", "bias", "mask", "running_mean", "running_var"):
        tensor = state.get(f"{module}.{suffix}")
        if tensor is not None and tensor.dim() > dim:
            state[f"{module}.{suffix}"] = tensor.index_select(dim, index)
