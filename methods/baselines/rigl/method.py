"""RigL (Evci et al. 2020): sparse from the first step; small weights are replaced by positions with a large gradient."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from compressbench.config import MethodConfig
from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.pruning.config import record_densities
from compressbench.pruning.masks import (
    Masks,
    apply_masks,
    keep_largest,
    masked_layers,
    prunable,
    regrown_fraction,
    removed_count,
    zero_removed,
)
from compressbench.training import Hook, State

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
    """Masks with `kept` entries per layer, sampled uniformly."""
    ranks = {name: torch.randperm(shape.numel(), generator=generator).view(shape) for name, shape in shapes.items()}
    return {name: keep_largest(rank, rank.numel() - kept[name]) for name, rank in ranks.items()}


def drop(weight: Tensor, mask: Tensor, count: int) -> Tensor:
    """`mask` without the `count` kept weights of smallest |W|."""
    removed = mask.numel() - int(mask.sum())
    return keep_largest(weight.abs().masked_fill(~mask, -1.0), removed + count)


def grow(gradient: Tensor, mask: Tensor, count: int) -> Tensor:
    """Bool like `mask`: the `count` positions of largest |G| outside it."""
    return keep_largest(gradient.abs().masked_fill(mask, -1.0), mask.numel() - count)


@dataclass(frozen=True)
class Schedule:
    """f(t) = alpha/2 (1 + cos(pi t / end)), at every `interval`-th step t before `end`."""

    alpha: float
    interval: int
    end: float

    def fraction(self, step: int) -> float:
        """Share of the kept weights that is replaced at `step`."""
        return self.alpha / 2 * (1 + math.cos(math.pi * step / self.end))

    def updates(self, step: int) -> bool:
        """Whether the masks change in the place of this optimiser step."""
        return step < self.end and step % self.interval == 0


class Rewiring(Hook):
    """Drops and grows weights in the place of an optimiser step.

    Removed weights are 0: for one forward and backward pass the masks of the sparse layers are opened, which changes
    nothing in the network's output and gives every weight its gradient.
    """

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.masks: Masks = {}
        """What was open, from `on_step_start` to `on_gradients` of one step."""

    def on_step_start(self, state: State) -> None:
        if not self.schedule.updates(state.step):
            return
        layers = masked_layers(state.model)
        self.masks = {name: layer.mask.clone() for name, layer in layers.items() if not layer.mask.all()}
        for name in self.masks:
            layers[name].mask.fill_(True)

    @torch.no_grad()
    def on_gradients(self, state: State) -> None:
        if not self.schedule.updates(state.step):
            return
        layers = {name: layer for name, layer in masked_layers(state.model).items() if name in self.masks}
        fraction, grown = self.schedule.fraction(state.step), {}
        for name, layer in layers.items():
            mask = self.masks[name]
            count = int(fraction * int(mask.sum()))
            layer.mask.copy_(drop(layer.weight, mask, count))
            assert layer.weight.grad is not None, "removed weights get a gradient, too"
            grown[name] = grow(layer.weight.grad, layer.mask, count)
        zero_removed(state.model, state.optimizers)  # what grows now starts at 0, without momentum
        for name, layer in layers.items():
            layer.mask.logical_or_(grown[name])
        state.metrics["regrown"] = regrown_fraction(self.masks, {name: layer.mask for name, layer in layers.items()})
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)  # without gradients an optimiser's step changes nothing


class RigL(Method):
    """A random sparse network whose connections move while it trains, equally many per layer throughout."""

    class Config(MethodConfig):
        """How much, spread how over the layers, and how the connections move."""

        sparsity: float = Field(0.9, gt=0, lt=1, description="fraction removed of the prunable weights")
        distribution: Distribution = Field("erk", description="densities by layer shape, or p everywhere but the first")
        keep_last: bool = Field(False, description="leave the classifier dense")
        alpha: float = Field(0.3, gt=0, le=1, description="fraction replaced in the first update")
        delta_t: int | None = Field(
            100, ge=1, description="steps between updates; null: max(10, a hundredth of the run), for short runs"
        )
        end: float = Field(0.75, gt=0, le=1, description="fraction of the run after which the masks are fixed")

        def schedule(self, steps: int) -> Schedule:
            """The updates of a run of `steps` optimiser steps."""
            return Schedule(self.alpha, self.delta_t or max(10, steps // 100), self.end * steps)

    config: Config

    def compress(self, ctx: Context) -> Network:
        recipe, config, model = ctx.recipes.scratch, self.config, ctx.build()
        shapes = {name: layer.weight.shape for name, layer in prunable(model, keep_last=config.keep_last).items()}
        kept = kept_counts(shapes, config.sparsity, config.distribution)
        apply_masks(model, random_positions(shapes, kept, ctx.generator("rigl")))
        ctx.fit(model, recipe, hooks=[Rewiring(config.schedule(ctx.steps(recipe)))])
        record_densities(ctx, model)
        return model
