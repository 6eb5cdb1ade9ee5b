"""How many weights each layer keeps where a network has a given sparsity: alike in all layers, or Erdős-Rényi-kernel (ERK)."""

from collections.abc import Mapping
from typing import Literal

import torch

from compressbench.pruning.masks import Masks, keep_largest, removed_count

Distribution = Literal["erk", "uniform"]
Shapes = Mapping[str, torch.Size]


def erk_densities(shapes: Shapes, density: float) -> dict[str, float]:
    """Erdős-Rényi-kernel: d_l = min(1, ε (c_in + c_out + k_h + k_w) / (c_in c_out k_h k_w)), `density` of all weights.

    Layers that ε would fill beyond 1 are dense, and ε is solved again for the others. A linear layer is 1x1.
    """
    sides = {name: sum((*shape, 1, 1)[:4]) for name, shape in shapes.items()}
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        budget = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        epsilon = budget / sum(side for name, side in sides.items() if name not in dense)
        full = {name for name in sides if name not in dense and epsilon * sides[name] > sizes[name]}
        if not full:
            return {name: 1.0 if name in dense else epsilon * sides[name] / sizes[name] for name in shapes}
        dense |= full


def whole_counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`shares` as whole numbers that sum to `total`: rounded down, but those with the largest remainders up."""
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(counts, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def kept_counts(shapes: Shapes, sparsity: float, distribution: Distribution) -> dict[str, int]:
    """Kept weights of every layer: ERK, n - floor(p n) in all; or n_l - floor(p n_l) in each, the first layer dense."""
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    if distribution == "erk":
        count = sum(sizes.values())
        total = count - removed_count(count, sparsity)
        densities = erk_densities(shapes, total / count)
        return whole_counts({name: densities[name] * size for name, size in sizes.items()}, total)
    first = next(iter(sizes))
    return {n: size if n == first else size - removed_count(size, sparsity) for n, size in sizes.items()}


def random_positions(shapes: Shapes, kept: Mapping[str, int], generator: torch.Generator) -> Masks:
    """Masks with `kept` entries per layer, drawn uniformly."""
    ranks = {name: torch.randperm(shape.numel(), generator=generator).view(shape) for name, shape in shapes.items()}
    return {name: keep_largest(rank, rank.numel() - kept[name]) for name, rank in ranks.items()}
