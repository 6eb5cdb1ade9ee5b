"""Filter surgery: reorder or remove output channels, with everything that is indexed by them.

Which tensors belong to a channel is the architecture's knowledge: `model.couplings()`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressbench import models
from compressbench.errors import UserError
from compressbench.layers.registry import CompressedLayer
from compressbench.models import Network

State = dict[str, Tensor]


def _take(state: State, module: str, index: Tensor, dim: int) -> None:
    """Select channels of every tensor of one module; scalars (batch counters) and, at dim 1, biases stay."""
    for suffix in ("weight", "bias", "mask", "running_mean", "running_var"):
        tensor = state.get(f"{module}.{suffix}")
        if tensor is not None and tensor.dim() > dim:
            state[f"{module}.{suffix}"] = tensor.index_select(dim, index)


def _select(model: Network, indices: Mapping[str, Tensor]) -> State:
    """The state with channels[index] (int64 [kept]) in place of the channels of every coupling that `indices` names.

    Rows of the producers (filter, bias, mask), their normalisations, the depthwise filters that follow, the outer
    sides of the squeeze-excite layers, and the input columns of every consumer, at their place in a concatenation.
    """
    couplings = model.couplings()
    if unknown := set(indices) - {c.key for c in couplings if not c.padded}:
        raise ValueError(
            f"the order of {min(unknown)}'s channels is not free: it is an output, or a sum or a padding fixes it"
        )
    state: State = dict(model.state_dict())
    columns: dict[str, list[tuple[int, Tensor]]] = {}
    for coupling in couplings:
        weight = state[f"{coupling.producer}.weight"]
        index = indices.get(coupling.key, torch.arange(len(weight), device=weight.device))
        outputs = [name for link in coupling.outputs for name in link if name is not None]
        readers = list(coupling.consumers)
        if coupling.gates is not None:
            readers.append(coupling.gates[0])
            outputs.append(coupling.gates[1])
        for reader in readers:
            columns.setdefault(reader, []).append((coupling.offset, index + coupling.offset))
        for name in outputs if coupling.key in indices else ():
            _take(state, name, index, dim=0)
    for reader, parts in columns.items():
        _take(state, reader, torch.cat([index for _, index in sorted(parts, key=lambda p: p[0])]), dim=1)
    return state


def permute_filters(model: Network, orders: Mapping[str, Tensor]) -> Network:
    """Reorder the channels of the named couplings, in place; the network's function stays the same."""
    model.load_state_dict(_select(model, orders))
    return model


def keep_filters(model: Network, kept: Mapping[str, Tensor]) -> Network:
    """A narrower network of the same architecture with only the channels `kept[key]` (int64) of the named couplings."""
    if any(isinstance(m, CompressedLayer) for m in model.modules()):
        raise ValueError("keep_filters narrows dense networks; remove filters before masking or quantizing")
    with torch.random.fork_rng(devices=[]):
        narrow = build_narrow(model, {name: index.numel() for name, index in kept.items()})
    narrow.to(next(model.parameters()))
    narrow.load_state_dict(_select(model, kept))
    return narrow.train(model.training)


def build_narrow(model: Network, widths: Mapping[str, int]) -> Network:
    """The same architecture with other inner widths, initialised from torch's current generator.

    UserError where nothing would be left of a layer.
    """
    if empty := [name for name, width in widths.items() if width < 1]:
        raise UserError(f"no filter of {empty[0]} would be left; choose a lower compression.")
    arguments = dict(model.spec.arguments)
    arguments["inner_widths"] = {**(arguments.get("inner_widths") or {}), **widths}
    return models.build(model.spec.architecture, **arguments)
