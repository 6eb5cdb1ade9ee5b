"""Lottery Jackpots (arXiv 2104.08700): search a mask for a trained network whose weights never change."""

import copy
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from compressbench import accounting
from compressbench.config import MethodConfig, Recipe
from compressbench.errors import UserError
from compressbench.layers.masked import masked_layers
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.structure import AnyModule
from compressbench.pruning.config import record_densities
from compressbench.pruning.deployments import sparse_networks
from compressbench.pruning.masks import Masks, apply_masks, regrown_fraction
from compressbench.pruning.trained_masks import scored_layers, scores
from compressbench.training import Hook, State
from methods.lottery_jackpots import counts
from methods.lottery_jackpots.search import (
    QUOTAS,
    Restriction,
    add_scores,
    chance_overlap,
    exchange,
    export,
    inner_weights,
    magnitude_masks,
    overlap,
    restriction_factor,
    scattered_masks,
)

CURVE_BATCHES = 10  # recompute the statistics of a copy before each validation: masks move faster than running averages


class MaskSearch(Hook):
    """After every step: exchange mask entries inside every layer. Logs what an epoch changed, and where it has led.

    magnitude: the layer-wise magnitude masks of the same quotas; the layers that are searched are theirs.
    """

    kept: ClassVar[tuple[str, ...]] = ("before",)

    def __init__(self, magnitude: Masks, restriction: Restriction):
        self.magnitude, self.restriction = magnitude, restriction
        self.removed = {name: int((~mask).sum()) for name, mask in magnitude.items()}

    def on_epoch_start(self, state: State) -> None:
        self.before = {name: mask.clone() for name, mask in searched_masks(state.model, self.magnitude).items()}

    @torch.no_grad()
    def on_step_end(self, state: State) -> None:
        factor = restriction_factor(self.restriction, state.epoch, state.epochs)
        layers = scored_layers(state.model)
        for name, removed in self.removed.items():
            layer = layers[name]
            layer.mask.copy_(exchange(layer.mask, layer.rank(), removed, factor))

    def on_epoch_end(self, state: State) -> None:
        masks = searched_masks(state.model, self.magnitude)
        state.metrics["regrown"] = regrown_fraction(self.before, masks)
        state.metrics["magnitude_overlap"] = overlap(masks, self.magnitude)
        state.metrics["restriction"] = restriction_factor(self.restriction, state.epoch, state.epochs)


def searched_masks(model: nn.Module, names: Masks) -> Masks:
    """The current masks of the layers named."""
    layers = masked_layers(model)
    return {name: layers[name].mask for name in names}


class LotteryJackpots(Method):
    """Quotas and initial masks from the magnitudes, gradient descent on the scores, and not one weight updated."""

    class Config(MethodConfig):
        """Epochs, batch size, augmentation and weight decay (of the scores) are those of recipes.finetune."""

        sparsity: float = Field(0.9, ge=0, lt=1, description="p: fraction removed of all weights but the classifier's")
        quotas: Literal["magnitude", "uniform"] = Field(
            "magnitude", description="removed weights per layer: from magnitudes over all layers, or p in every layer"
        )
        start: Literal["magnitude", "random"] = Field("magnitude", description="the initial masks, with those quotas")
        weights: Literal["pretrained", "random"] = Field(
            "pretrained", description="what is searched: the trained network, or a freshly initialised one (control)"
        )
        search: bool = Field(True, description="False: the initial masks are the result (control)")
        score_low: float = Field(0.99, ge=0, lt=1, description="initial score of a removed weight; kept ones have 1")
        rank_by_abs: bool = Field(False, description="rank by |S|, as the release of 2021 does, not by S")
        restriction: Restriction = Field(
            "none", description="share of the exchanges carried out: 1, (1 - e/E)^4, or the ceiling of that as released"
        )
        slices: int | None = Field(
            None, ge=1, description="epochs of the search's schedule, for searches of few passes; default: one per pass"
        )
        search_lr: float = Field(0.1, gt=0, description="learning rate of the scores: a cosine, constant in an epoch")
        tuning_epochs: int = Field(
            0, ge=0, description="the last so many epochs of the budget train the kept weights, with the masks fixed"
        )
        tuning_lr: float = Field(0.01, gt=0, description="learning rate of these epochs")

    config: Config

    def check(self, network: nn.Module) -> None:
        inner_weights(network)

    def compress(self, ctx: Context) -> Network:
        config, dense = self.config, ctx.dense()
        removed = QUOTAS[config.quotas](inner_weights(dense), config.sparsity)
        network = dense if config.weights == "pretrained" else ctx.build().eval()
        weights = inner_weights(network)
        magnitude = magnitude_masks(weights, removed)
        start = (
            magnitude if config.start == "magnitude" else scattered_masks(weights, removed, ctx.generator("jackpot"))
        )
        search, tuning = self.recipes(ctx.recipes.finetune)
        result = self._search(ctx, network, start, magnitude, search) if search else apply_masks(network, start)
        if tuning:
            ctx.fit(result, tuning, name="tuning")
        _record(ctx, result, magnitude)
        return result

    def recipes(self, budget: Recipe) -> tuple[Recipe | None, Recipe | None]:
        """How scores and weights train, None where they do not: together they have the epochs of `budget`."""
        config = self.config
        epochs = budget.epochs - config.tuning_epochs
        if epochs < int(config.search):
            raise UserError(
                f"lottery_jackpots: tuning_epochs is {config.tuning_epochs}, the budget {budget.epochs} epochs: none is left "
                "for the search; use fewer, or raise the pair's finetune.epochs."
            )
        plain = budget.model_dump() | {
            "optimizer": "sgd", "momentum": 0.9, "nesterov": False, "label_smoothing": 0.0, "warmup_epochs": 0,
            "schedule": "cosine_by_epoch", "halve_every": None, "milestones": (),
        }  # fmt: skip
        search = plain | {"epochs": epochs, "lr": config.search_lr}
        tuning = plain | {"epochs": config.tuning_epochs, "lr": config.tuning_lr, "weight_decay": 0.0}
        return (
            Recipe.model_validate(search) if config.search else None,
            Recipe.model_validate(tuning) if config.tuning_epochs else None,
        )

    def _search(self, ctx: Context, network: AnyModule, start: Masks, magnitude: Masks, recipe: Recipe) -> AnyModule:
        """`network` with the masks found from `start`. Batch norms are in train mode, their scale and shift frozen."""
        config = self.config
        epochs, steps = ctx.sliced(recipe, config.slices)
        model = add_scores(copy.deepcopy(network), start, config.score_low, config.rank_by_abs)
        ctx.fit(
            model,
            recipe,
            name="search",
            optimizers=[ctx.optimizer(recipe, scores(model).values())],
            hooks=[MaskSearch(magnitude, config.restriction)],
            epochs=epochs,
            steps_per_epoch=steps,
            validate=lambda searched: ctx.validate(ctx.recalibrate(copy.deepcopy(searched), CURVE_BATCHES)),
        )
        return export(model, network)

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Layers, weights, MACs and parameters of the published networks; weights kept and true sparsity at each p."""
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return sparse_networks()


def _record(ctx: Context, model: nn.Module, magnitude: Masks) -> None:
    """Densities, the overlap with the magnitude masks and its chance level, and the sparsity of the whole network."""
    masks = searched_masks(model, magnitude)
    record_densities(ctx, model)
    ctx.record("magnitude_overlap", overlap(masks, magnitude))
    ctx.record("magnitude_overlap_by_chance", chance_overlap(magnitude))
    layers = [layer for _, layer in accounting.weight_layers(model)]
    kept = sum(accounting.kept_count(layer) for layer in layers)
    ctx.record("kept_weights", kept)
    ctx.record("overall_sparsity", 1 - kept / sum(layer.weight.numel() for layer in layers))
