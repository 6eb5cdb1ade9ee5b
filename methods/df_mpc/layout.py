"""Which layers get few bits, and which layer compensates for each."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from compressbench import accounting
from compressbench.data_free.closed_forms import LayerPair, consecutive_pairs
from compressbench.errors import UserError
from compressbench.models import Network


def mixed_pairs(model: Network, low_layers: Sequence[str] | None = None) -> list[LayerPair]:
    """(low, high) pairs of consecutive layers that do not overlap, in forward order.

    By rule: from the input on, every convolution with kernels larger than 1x1 but the first one of the network, unless it
    makes up for the one before: conv1 of a basic block, conv2 of a bottleneck, 2nd, 4th, ... of a plain network. By name:
    those that match the patterns. UserError when a pattern names no layer of a pair, when pairs overlap, or when there is none.
    """
    pairs = consecutive_pairs(model)
    if low_layers is not None:
        return _named(pairs, low_layers)
    first = next(name for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    chosen: list[LayerPair] = []
    for pair in pairs:
        compensates = bool(chosen) and chosen[-1].reader == pair.layer
        if pair.layer != first and not compensates and model.get_submodule(pair.layer).kernel_size != (1, 1):
            chosen.append(pair)
    if not chosen:
        raise UserError("df_mpc: this network has no low layer by the rule; name some in low_layers.")
    return chosen


def _named(pairs: Sequence[LayerPair], patterns: Sequence[str]) -> list[LayerPair]:
    for pattern in patterns:
        if not any(fnmatchcase(pair.layer, pattern) for pair in pairs):
            known = ", ".join(pair.layer for pair in pairs)
            raise UserError(f"df_mpc: low_layers: {pattern!r} names no layer that feeds one other; those are {known}.")
    chosen = [pair for pair in pairs if any(fnmatchcase(pair.layer, pattern) for pattern in patterns)]
    low = {pair.layer for pair in chosen}
    if overlapping := [pair.reader for pair in chosen if pair.reader in low]:
        raise UserError(f"df_mpc: low_layers: {overlapping[0]} would be low and make up for another; leave it out.")
    return chosen


def mean_bits(model: nn.Module) -> float:
    """Bits per weight, over all convolutions and linear layers; 32 where a layer is not quantized."""
    counts = [(m.weight.numel(), getattr(m, "weight_bits", 32)) for _, m in accounting.weight_layers(model)]
    return sum(count * bits for count, bits in counts) / sum(count for count, _ in counts)
