"""Sparse networks of papers as they are deployed: sparsity and pattern are known, the positions are random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from compressbench.method import FLOAT, Deployment
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.pruning.blocks import Rows, prunable_layers, random_block_mask, weights_of
from compressbench.pruning.densities import Distribution, kept_counts, random_positions
from compressbench.pruning.filters import cost_of, inner_keys, macs, uniform_widths
from compressbench.pruning.masks import apply_masks, prunable

OWN = ("compressbench",)  # the runtime that skips removed weights
BLOCK_NETWORKS = ("MobileNet-V1", "MobileNet-V2", "MobileNet-V3", "ResNet-18", "ResNet-50")
NAMES: dict[Distribution, str] = {"uniform": "uniform densities", "erk": "ERK densities"}


@dataclass(frozen=True)
class RandomWeights:
    """Removes random single weights of every layer."""

    sparsity: float
    distribution: Distribution

    def __call__(self, model: Network) -> nn.Module:
        shapes = {name: layer.weight.shape for name, layer in prunable(model).items()}
        kept = kept_counts(shapes, self.sparsity, self.distribution)
        return apply_masks(model, random_positions(shapes, kept, torch.default_generator))


@dataclass(frozen=True)
class RandomBlocks:
    """Removes random 1xN blocks of all convolutions but the first, the depthwise ones, and those that N does not divide."""

    n: int
    sparsity: float
    rows: Rows

    def __call__(self, model: Network) -> nn.Module:
        weights = {name: w for name, w in weights_of(model, prunable_layers(model)).items() if len(w) % self.n == 0}
        masks = {
            name: random_block_mask(weight, self.n, self.sparsity, torch.default_generator, self.rows)
            for name, weight in weights.items()
        }
        return apply_masks(model, masks, self.n)


def unstructured(network: str, sparsity: float, distribution: Distribution, **about: Any) -> Deployment:
    """A network with `RandomWeights` removed."""
    setting = f"{100 * sparsity:g} %, {NAMES[distribution]}"
    return Deployment(NETWORKS[network], setting, RandomWeights(sparsity, distribution), OWN, **about)


def blocks(network: str, n: int, sparsity: float, rows: Rows, **about: Any) -> Deployment:
    """A network with `RandomBlocks` removed."""
    setting = f"1x{n}, {100 * sparsity:g} %"
    return Deployment(NETWORKS[network], setting, RandomBlocks(n, sparsity, rows), OWN, **about)


def sparse_networks() -> list[Deployment]:
    """Those that methods for single weights are published on."""
    plan = {"ResNet-50": (0.9, 0.95, 0.98), "MobileNet-V1": (0.8, 0.9), "VGG-19 (CIFAR)": (0.9,)}
    shown = ("ResNet-50", 0.9, "erk")
    return [
        unstructured(name, sparsity, densities, representative=(name, sparsity, densities) == shown)
        for name, sparsities in plan.items()
        for sparsity in sparsities
        for densities in NAMES
    ]


def block_networks(rows: Rows) -> list[Deployment]:
    """Those that block methods are published on."""
    shown = ("ResNet-50", 16, 0.75)
    return [
        blocks(network, n, sparsity, rows, representative=(network, n, sparsity) == shown, threads=(1, 2))
        for network in BLOCK_NETWORKS
        for n in (4, 16)
        for sparsity in (0.5, 0.75, 0.9)
    ]


TITLES = {
    "vgg16": "VGG-16 (CIFAR)",
    "resnet56": "ResNet-56 (CIFAR)",
    "resnet110": "ResNet-110 (CIFAR)",
    "googlenet": "GoogLeNet (CIFAR)",
    "resnet50": "ResNet-50",
}


class Structure(NamedTuple):
    """A published structure: `model` and `setting` as in published.csv, and `widths` for the architecture's `inner_widths`."""

    model: str
    setting: str
    widths: Mapping[str, int]


@dataclass(frozen=True)
class Narrow:
    """A network with other widths."""

    network: str
    widths: tuple[tuple[str, int], ...]

    def __call__(self, model: Network) -> nn.Module:
        return NETWORKS[self.network].initialised(inner_widths=dict(self.widths))


@dataclass(frozen=True)
class UniformWidths:
    """A network with one rate for all widths inside its blocks, which leaves about a share of the multiply-accumulates.

    They are a quadratic of the share of the filters that is kept, but for rounding: three points of it say which share that
    is, and a fourth one what rounding does there.
    """

    network: str
    macs_reduction: float

    def __call__(self, model: Network) -> nn.Module:
        dense = NETWORKS[self.network]
        cost, keys = macs(dense.shape), inner_keys(model)

        def cost_at(share: float) -> int:
            return cost_of(model, uniform_widths(model, keys, 1 - share), cost)

        points = np.array([1, 0.5, 0.25])
        costs = [cost_at(share) for share in points]
        target = (1 - self.macs_reduction) * costs[0]
        quadratic = np.polyfit(points, costs, 2) - [0, 0, target]
        share = next(float(root) for root in np.roots(quadratic).real if 0 <= root <= 1)
        nearer = share + (target - cost_at(share)) / float(np.polyval(np.polyder(quadratic), share))
        share = min(share, nearer, key=lambda s: abs(cost_at(s) - target))
        return dense.initialised(inner_widths=uniform_widths(model, keys, 1 - share))


def uniform(network: str, macs_reduction: float, representative: bool = False) -> Deployment:
    """A network with `UniformWidths`: what methods whose own structures are not published remove, spread evenly."""
    setting = f"uniform widths, MACs −{100 * macs_reduction:g} %"
    compress = UniformWidths(network, macs_reduction)
    return Deployment(NETWORKS[network], setting, compress, FLOAT, representative=representative)


def narrow(structures: Sequence[Structure], representative: str = "") -> list[Deployment]:
    """Published structures of filter pruning; `representative`: the setting of one."""
    found = []
    for structure in structures:
        title, setting = TITLES[structure.model], structure.setting.replace("_", " ")
        compress = Narrow(title, tuple(structure.widths.items()))
        shown = structure.setting == representative
        found.append(Deployment(NETWORKS[title], setting, compress, FLOAT, representative=shown))
    return found
