"""Filter surgery: reorder or remove output channels, with everything that is indexed by them.

Which tensors belong to a channel is the architecture's knowledge: `model.couplings()`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressbench import models
from compressbench.compression.registry import CompressedLayer
from compressbench.models.structure import Coupling

State = dict[str, Tensor]


def _take(state: State, module: str, index: Tensor, dim: int) -> None:
    """Select channels of every tensor of one module; scalars (batch counters) and, at dim 1, biases stay."""
    for suffix in ("weight", "bias", "mask", "running_mean", "running_var"):
        tensor = state.get(f"{module}.{suffix}")
        if tensor is not None and tensor.dim() > dim:
            state[f"{module}.{suffix}"] = tensor.index_select(dim, index)


def select_channels(state: State, coupling: Coupling, index: Tensor) -> State:
    """The state with the coupling's channels replaced by channels[index]; index int64 [kept].

    Rows of the producer (filter, bias, mask), its normalisation, the depthwise filters that follow, the outer sides
    of the squeeze-excite layers, and the input columns of every consumer.
    """
    state = dict(state)
    normed = [(coupling.producer, coupling.norm), *coupling.followers]
    outputs = [name for pair in normed for name in pair if name is not None]
    inputs = list(coupling.consumers)
    if coupling.gates is not None:
        inputs.append(coupling.gates[0])
        outputs.append(coupling.gates[1])
    for name in outputs:
        _take(state, name, index, dim=0)
    for name in inputs:
        _take(state, name, index, dim=1)
    return state


def _select(model: nn.Module, indices: Mapping[str, Tensor]) -> State:
    couplings = {c.producer: c for c in model.couplings()}  # type: ignore[operator]
    if unknown := [name for name in indices if name not in couplings]:
        raise ValueError(f"the order of {unknown[0]}'s channels is not free: it takes part in a sum or is an output")
    state = dict(model.state_dict())
    for name, index in indices.items():
        state = select_channels(state, couplings[name], index)
    return state


def permute_filters(model: nn.Module, orders: Mapping[str, Tensor]) -> nn.Module:
    """Reorder the filters of the named convolutions, in place; the network's function stays the same."""
    model.load_state_dict(_select(model, orders))
    return model


def keep_filters(model: nn.Module, kept: Mapping[str, Tensor]) -> nn.Module:
    """A narrower network of the same architecture with only the filters `kept[producer]` (int64, ascending)."""
    if any(isinstance(m, CompressedLayer) for m in model.modules()):
        raise ValueError("keep_filters narrows dense networks; remove filters before masking or quantizing")
    with torch.random.fork_rng(devices=[]):
        narrow = build_narrow(model, {name: index.numel() for name, index in kept.items()})
    narrow.to(next(model.parameters()))
    narrow.load_state_dict(_select(model, kept))
    return narrow.train(model.training)


def build_narrow(model: nn.Module, widths: Mapping[str, int]) -> nn.Module:
    """The same architecture with other inner widths, initialised from torch's current generator."""
    arguments = dict(model.spec.arguments)  # type: ignore[union-attr,arg-type]
    arguments["inner_widths"] = {**(arguments.get("inner_widths") or {}), **widths}
    return models.build(model.spec.architecture, **arguments)  # type: ignore[union-attr,arg-type,no-any-return]
