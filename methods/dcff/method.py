"""DCFF (arXiv 2107.06916): a narrow network is trained from scratch through mixtures of full layers of filters."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from compressbench import models
from compressbench.config import MethodConfig
from compressbench.errors import UserError
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.structure import AnyModule, initialise_kaiming, submodule
from compressbench.pruning.deployments import narrow
from compressbench.pruning.filters import (
    Widths,
    check_free,
    inner_keys,
    macs,
    uniform_widths,
    widths_from_rates,
    widths_within,
)
from compressbench.pruning.surgery import build_narrow
from compressbench.seeding import derive_seed
from compressbench.training import Hook, State
from methods.dcff import counts
from methods.dcff.fusion import FusedConv2d, Schedule, export, fused_layers

Initialisation = Literal["framework", "kaiming_fan_in", "kaiming_fan_out"]


def fused_names(full: Network) -> list[str]:
    """The convolutions whose width is free: producers and what is added to them, but no shortcut convolutions."""
    couplings = full.couplings()
    if depthwise := [name for coupling in couplings for name, _ in coupling.followers]:
        raise UserError(
            f"dcff: {depthwise[0]} is a depthwise convolution, which this method does not fuse; choose an architecture "
            "without them."
        )
    return [name for c in couplings for name in (c.producer, *(added for added, _ in c.added))]


def fuse(narrow: AnyModule, full: Network) -> AnyModule:
    """Let every free convolution of `narrow` own as many filters as in `full`, in place."""
    for name in fused_names(full):
        own, whole = (submodule(network, name, nn.Conv2d) for network in (narrow, full))
        narrow.set_submodule(name, FusedConv2d(own, whole.out_channels))
    return narrow


def initialise(model: AnyModule, kind: Initialisation) -> AnyModule:
    """Draw all weights anew, in place and from torch's current generator; of a fused convolution all C filters.

    framework: PyTorch's uniform ones. kaiming_fan_in: normal, convolutions and linear layers. kaiming_fan_out: normal,
    convolutions only, as the ImageNet network's code does.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
        if isinstance(layer, nn.Conv2d) and kind == "kaiming_fan_out":
            initialise_kaiming(layer, "fan_out")
    if kind == "kaiming_fan_in":
        initialise_kaiming(model)
    return model


class Fusion(Hook):
    """Before the first batch of every epoch: proxies, scores and selection of all fused layers, then P is constant."""

    def __init__(self, schedule: Schedule, keep_scores: bool = False):
        self.schedule, self.keep_scores = schedule, keep_scores

    def on_epoch_start(self, state: State) -> None:
        temperature = self.schedule(state.epoch)
        found = [layer.refresh(temperature, state.epoch, self.keep_scores) for _, layer in fused_layers(state.model)]
        state.metrics["temperature"] = temperature
        state.metrics["layers_with_finite_scores"] = sum(f["finite"] for f in found)
        state.metrics["smallest_distance"] = min(f["distance"] for f in found)
        if state.epoch > 0:
            state.metrics["selection_overlap"] = min(f["overlap"] for f in found)


class DCFF(Method):
    """Train mixtures of C filters whose rows turn one-hot, and keep the m mixtures."""

    class Config(MethodConfig):
        """Epochs, batch size, learning rate and weight decay are the pair's shared budget (recipes.scratch)."""

        rates: dict[str, float | tuple[float, ...]] | None = Field(
            None, description="pattern of widths -> the rate of removed filters, or one for each: int(C (1 - r)) stay"
        )
        macs_reduction: float | None = Field(
            None, gt=0, lt=1, description="instead: the share of MACs to remove, by one rate inside the blocks"
        )
        t_start: float = Field(1.0, gt=0, description="T_s: inverse temperature of epoch 0")
        t_end: float = Field(1e4, gt=0, description="T_e: inverse temperature that the last epoch approaches")
        steepness: float = Field(1.0, gt=0, description="k of the paper's schedule")
        schedule: Literal["paper", "geometric"] = Field(
            "paper", description="the paper's, nearly a step; or equal factors from epoch to epoch: it really anneals"
        )
        selection: Literal["kl", "random"] = Field(
            "kl", description="which filters stay: the largest KL scores, or a random subset that never changes"
        )
        initialisation: Initialisation = Field(
            "framework", description="PyTorch's default, or Kaiming normal as the published ResNets have it"
        )

        @model_validator(mode="after")
        def _consistent(self) -> "DCFF.Config":
            if (self.rates is None) == (self.macs_reduction is None):
                raise ValueError("give either rates or macs_reduction")
            if self.t_end < self.t_start:
                raise ValueError("t_end is an inverse temperature that grows from t_start: it cannot be smaller")
            return self

        @property
        def macs_kept(self) -> float:
            """The share of the MACs to keep; all of them where rates say what goes."""
            return 1 - (self.macs_reduction or 0)

    config: Config

    def check(self, network: Network) -> None:
        check_free(network)
        fused_names(network)

    def compress(self, ctx: Context) -> Network:
        recipe, config = ctx.recipes.scratch, self.config
        with torch.device("meta"):
            full = models.build(ctx.spec.architecture, **ctx.spec.arguments)
        widths = self._widths(ctx, full)
        model = self._start(ctx, full, widths)
        schedule = Schedule(recipe.epochs, config.t_start, config.t_end, config.steepness, config.schedule)
        ctx.fit(model, recipe, hooks=[Fusion(schedule, keep_scores=config.selection == "random")])
        _record(ctx, model)
        with torch.random.fork_rng(devices=[]):
            return export(model, build_narrow(full, widths).to(ctx.device))

    def _widths(self, ctx: Context, full: Network) -> Widths:
        if self.config.rates is not None:
            return widths_from_rates(full, self.config.rates)
        cost, keys = macs(ctx.info.image_shape), inner_keys(full)
        target = int(cost(full) * self.config.macs_kept)
        return widths_within(full, lambda rate: uniform_widths(full, keys, rate), cost, target)

    def _start(self, ctx: Context, full: Network, widths: Widths) -> Network:
        """The fused network before epoch 0; its weights depend on the run's seed only."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(ctx.seed, "initialisation"))
            model = initialise(fuse(build_narrow(full, widths), full), self.config.initialisation)
        if self.config.selection == "random":
            generator = ctx.generator("selection")
            for _, layer in fused_layers(model):
                layer.score.copy_(torch.rand(layer.out_channels, generator=generator))
        return model.to(ctx.device)

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Parameters and FLOPs of the ten published networks and of their dense ones, with the reductions in %."""
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return narrow(counts.structures(), "resnet50_f")


def _record(ctx: Context, model: nn.Module) -> None:
    """How the selection behaved, over all epochs and layers."""
    layers = [layer for _, layer in fused_layers(model)]
    ctx.record("fused_layers", len(layers))
    ctx.record("finite_scores_epoch0", sum(int(layer.finite[0]) for layer in layers))
    ctx.record("finite_scores_later", sum(int(layer.finite[1]) for layer in layers))
    ctx.record("overlap_min", min(layer.overlap.item() for layer in layers))
    ctx.record("smallest_distance", min(layer.distance.item() for layer in layers))
