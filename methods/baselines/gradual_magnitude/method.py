"""Gradual magnitude pruning (Zhu & Gupta 2017): a cubic schedule of sparsity during training."""

from dataclasses import dataclass

import torch
from pydantic import Field

from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.pruning.config import PruningConfig, record_densities
from compressbench.pruning.masks import Scope, apply_masks, masked_layers, prunable, ranked_masks, zero_removed
from compressbench.training import Hook, State


@dataclass(frozen=True)
class CubicSchedule:
    """s(t) = s_f - s_f (1 - (t - t0) / span)^3 between t0 and t0 + span; 0 before, s_f after.

    sparsity: s_f, at the end. start: t0. span: n * interval steps. interval: steps between two updates of the masks.
    """

    sparsity: float
    start: int
    span: int
    interval: int = 1

    @classmethod
    def over(cls, sparsity: float, steps: int, start: int, end: float, updates: int) -> "CubicSchedule":
        """An update every max(1, steps // updates) of `steps`, the last one by the fraction `end` of the run."""
        interval = max(1, steps // updates)
        span = (int(end * steps) - start) // interval * interval
        return cls(sparsity, start, span, interval)

    def sparsity_at(self, step: int) -> float:
        """Fraction removed at `step`."""
        if step < self.start:
            return 0.0
        if step >= self.start + self.span:
            return self.sparsity
        return self.sparsity * (1 - (1 - (step - self.start) / self.span) ** 3)

    def updates(self, step: int) -> bool:
        """Whether the masks are recomputed before this step."""
        since = step - self.start
        return 0 <= since <= self.span and since % self.interval == 0


class GradualPruning(Hook):
    """Removes the smallest kept weights whenever the schedule says so; removed weights never return."""

    def __init__(self, schedule: CubicSchedule, scope: Scope):
        self.schedule, self.scope = schedule, scope

    @torch.no_grad()
    def on_step_start(self, state: State) -> None:
        if not self.schedule.updates(state.step):
            return
        layers = masked_layers(state.model)
        # removed weights rank below kept ones that happen to be 0, so that the masks are nested
        ranks = {name: layer.weight.abs().masked_fill(~layer.mask, -1.0) for name, layer in layers.items()}
        for name, mask in ranked_masks(ranks, self.schedule.sparsity_at(state.step), self.scope).items():
            layers[name].mask.copy_(mask)
        zero_removed(state.model, state.optimizers)

    def on_epoch_end(self, state: State) -> None:
        state.metrics["sparsity"] = self.schedule.sparsity_at(state.step)


class GradualMagnitude(Method):
    """From random weights to the target sparsity in one run."""

    class Config(PruningConfig):
        """How much, and until when."""

        end: float = Field(0.75, gt=0, le=1, description="fraction of the run at which the target sparsity is reached")
        updates: int = Field(100, ge=1, description="mask updates per run, if the run were pruned from start to end")

    config: Config

    def compress(self, ctx: Context) -> Network:
        recipe, config, model = ctx.recipes.scratch, self.config, ctx.build()
        layers = prunable(model, config.keep_first, config.keep_last)
        apply_masks(model, {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()})
        steps = ctx.steps(recipe)
        warmup = round(recipe.warmup_epochs * steps / recipe.epochs)
        schedule = CubicSchedule.over(config.sparsity, steps, warmup, config.end, config.updates)
        ctx.fit(model, recipe, hooks=[GradualPruning(schedule, config.scope)])
        record_densities(ctx, model)
        return model
