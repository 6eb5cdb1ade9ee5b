"""Counts of published quantized networks: they need no training. MB = 10⁶ bytes; scales are not counted."""

from torch import nn

from compressbench.accounting import Account

MEGABYTE = 1e6


def dense_counts(network: nn.Module, costs: Account) -> dict[str, int]:
    """Of the network before it is quantized: its sizes, and what a quantizer or a statistic belongs to."""
    kinds = [type(module) for module in network.modules()]
    return {
        "params": costs.params,
        "weights": costs.weights,
        "macs": costs.macs,
        "weight_layers": kinds.count(nn.Conv2d) + kinds.count(nn.Linear),
        "activation_quantizers": kinds.count(nn.ReLU) + kinds.count(nn.ReLU6),
        "norm_layers": kinds.count(nn.BatchNorm2d),
    }


def size_counts(costs: Account, weight_bits: int) -> dict[str, float]:
    """Of all weights in `weight_bits` together, and 32 bits per other parameter; the 32-bit network is the reference."""
    stored = (weight_bits + (costs.params - costs.weights) * 32) / 8
    return {"size_mb": stored / MEGABYTE, "compression": costs.params * 4 / stored}
