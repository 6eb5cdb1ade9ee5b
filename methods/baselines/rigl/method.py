"""RigL (Evci et al. 2020): sparse from the first step; small weights are replaced by positions with a large gradient."""

import math
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from compressbench.config import MethodConfig
from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.pruning.config import record_densities
from compressbench.pruning.densities import Distribution, kept_counts, random_positions
from compressbench.pruning.deployments import sparse_networks
from compressbench.pruning.masks import (
    Masks,
    apply_masks,
    keep_largest,
    masked_layers,
    prunable,
    regrown_fraction,
    zero_removed,
)
from compressbench.training import Hook, State


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

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return sparse_networks()
