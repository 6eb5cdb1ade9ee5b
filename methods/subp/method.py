"""SUBP (arXiv 2310.06218): equally many 1xN blocks in every row, from random weights, in one soft run."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from compressbench import models
from compressbench.config import Recipe
from compressbench.errors import UserError
from compressbench.layers.masked import masked_layers
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.structure import AnyModule, initialise_kaiming
from compressbench.pruning.blocks import block_mask, block_statistics, check_network, record_connected, weights_of
from compressbench.pruning.config import record_densities
from compressbench.pruning.deployments import block_networks
from compressbench.quantization.deployments import rounded_block_networks
from compressbench.quantization.rounded_blocks import RoundedConfig, check_rounding, round_finished
from compressbench.seeding import derive_seed
from methods.subp import counts
from methods.subp.counts import SHORTCUTS, block_layers
from methods.subp.criterion import (
    Criterion,
    Ramp,
    Sampler,
    Schedule,
    check_kernel,
    imbalance,
    most_important,
    sampler,
)
from methods.subp.soft import Gradient, MaskUpdates, RemovedDecay, Scored, export, soften


class SUBP(Method):
    """Every epoch the lowest blocks of each row become candidates, and a shrinking number of them is sampled to return."""

    class Config(RoundedConfig):
        """Epochs, batch size, learning rate and label smoothing are the pair's shared budget (recipes.scratch)."""

        n: int = Field(16, ge=1, description="N: output kernels per block")
        sparsity: float = Field(0.5, ge=0, lt=1, description="p: fraction of every row's blocks removed, rounded down")
        criterion: Criterion = Field("bpar", description="importance: l1 share less angular redundancy, or a norm")
        scored: Scored = Field("masked", description="score the weights under their mask (V2) or as they are (V1)")
        gradient: Gradient = Field("soft", description="whether removed weights get a gradient (straight through)")
        regrowth: bool = Field(True, description="candidates return at random; false: the most important of them stay")
        ramp: Ramp = Field("cubic", description="q(e), from 0 at start to 1 at end; cubic is slow first and fast last")
        start: int = Field(10, ge=0, description="a: the mask update at which pruning begins")
        end: int = Field(180, ge=0, description="b: the mask update from which on the rows have their final length")
        slices: int | None = Field(None, ge=1, description="mask updates in the run; default: one per epoch")
        alpha: float = Field(1.0, ge=0, description="weight of the angular redundancy")
        temperature: float = Field(1.0, gt=0, description="tau of the draw; large: all candidates are equally likely")
        decay: float = Field(2e-4, ge=0, description="lambda: decay of removed weights, beside the recipe's")
        dense: tuple[str, ...] = Field(SHORTCUTS, description="shell patterns of convolutions that carry no blocks")
        initialisation: Literal["published", "shared"] = Field(
            "published", description="the authors' weights, or those from which all other methods of the pair start"
        )

    config: Config

    def check(self, network: nn.Module) -> None:
        self.layers(network)
        check_rounding(network, self.config)

    def compress(self, ctx: Context) -> Network:
        if self.config.bits:
            return round_finished(ctx, self.config.bits)
        recipe, config = ctx.recipes.scratch, self.config
        model = self.start(ctx)
        soften(model, set(self.layers(model)), config.n, config.gradient)
        updates = MaskUpdates(
            self.schedule(recipe),
            config.n,
            lambda e, layer: self._sampler(ctx, e, layer),
            config.criterion,
            config.scored,
            config.alpha,
            config.temperature,
        )
        optimizer = ctx.optimizer(recipe, parameter_groups(model))
        ctx.fit(model, recipe, optimizers=[optimizer], hooks=[updates, RemovedDecay(config.decay)])
        self._record(ctx, model)
        return export(model, ctx.build(), config.n)

    def schedule(self, recipe: Recipe) -> Schedule:
        """The schedule over the run's mask updates; UserError when it does not fit."""
        config = self.config
        try:
            return Schedule(config.sparsity, config.start, config.end, config.slices or recipe.epochs, config.ramp)
        except ValueError as error:
            raise UserError(f"subp: {error}.") from None

    def layers(self, model: nn.Module) -> list[str]:
        """Names of the convolutions that carry blocks; UserError names one that cannot."""
        names = block_layers(model, self.config.dense)
        check_network(model, names, self.config.n)
        for name, weight in weights_of(model, names).items():
            check_kernel(weight, name)
        return names

    def start(self, ctx: Context) -> Network:
        """The network before epoch 0; its weights depend on the run's seed only."""
        if self.config.initialisation == "shared":
            return ctx.build()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(ctx.seed, "initialisation"))
            return initialise(models.build(ctx.spec.architecture, **ctx.spec.arguments)).to(ctx.device)

    def _sampler(self, ctx: Context, e: int, layer: str) -> Sampler:
        return sampler(ctx.generator(f"regrowth/{e}/{layer}")) if self.config.regrowth else most_important

    @torch.no_grad()
    def _record(self, ctx: Context, model: Network) -> None:
        """Row lengths of the masks beside those that 1xN's ranking of the whole layer gives on the same weights."""
        n, layers = self.config.n, masked_layers(model)
        record_densities(ctx, model)
        total = sum(layer.mask.numel() for layer in layers.values())
        ctx.record("removed_share", 1 - sum(int(layer.mask.sum()) for layer in layers.values()) / total)
        ranked = [block_mask(m.weight, n, self.config.sparsity)[::n, :, 0, 0] for m in layers.values()]
        ctx.record("imbalance", max(imbalance(layer.mask[::n, :, 0, 0]) for layer in layers.values()))
        ctx.record("imbalance_ranked", sum(map(imbalance, ranked)) / len(ranked))
        ctx.record("imbalance_ranked_two_threads", sum(imbalance(kept, 2) for kept in ranked) / len(ranked))
        for name, value in block_statistics([(m.weight, m.mask) for m in layers.values()], n).items():
            ctx.record(name, value)
        masks = {name: layer.mask for name, layer in layers.items()}
        record_connected(ctx, model, masks)

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Operations and parameters of the published networks, with whole blocks and with the exact rate."""
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return block_networks("uniform") + rounded_block_networks("uniform")


def initialise(model: AnyModule) -> AnyModule:
    """The authors' weights, in place and from torch's current generator: convolutions normal, std sqrt(2 / (k k c_out)).

    Depthwise ones too; the classifier has the framework's.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
        elif isinstance(layer, nn.Conv2d):
            initialise_kaiming(layer, "fan_out")
    return model


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Weights with the recipe's decay; batch norms and biases without any."""
    parameters = list(model.parameters())
    flat = [p for p in parameters if p.dim() <= 1]
    return [{"params": [p for p in parameters if p.dim() > 1]}, {"params": flat, "weight_decay": 0.0}]
