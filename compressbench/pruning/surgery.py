"""Filter surgery: reorder or remove output channels, with everything that is indexed by them.

Which tensors belong to a channel is the architecture's knowledge: `model.couplings()`, and `models.channels` takes them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressbench import models
from compressbench.errors import UserError
from compressbench.layers.registry import CompressedLayer
from compressbench.models import Network
from compressbench.models.channels import select


def permute_filters(model: Network, orders: Mapping[str, Tensor]) -> Network:
    """Reorder the channels of the named couplings, in place; the network's function stays the same."""
    model.load_state_dict(select(model.state_dict(), model.couplings(), orders))
    return model


def keep_filters(model: Network, kept: Mapping[str, Tensor]) -> Network:
    """A narrower network of the same architecture with only the channels `kept[key]` (int64) of the named couplings."""
    if any(isinstance(m, CompressedLayer) for m in model.modules()):
        raise ValueError("keep_filters narrows dense networks; remove filters before masking or quantizing")
    with torch.random.fork_rng(devices=[]):
        narrow = build_narrow(model, {name: index.numel() for name, index in kept.items()})
    narrow.to(next(model.parameters()))
    narrow.load_state_dict(select(model.state_dict(), model.couplings(), kept))
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
