"""L1-norm filter pruning (Li et al. 2017), one shot, at the cost of the methods that it is compared with."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressbench import accounting
from compressbench.config import MethodConfig
from compressbench.errors import UserError
from compressbench.layers.masked import masked_layers
from compressbench.method import Context, Deployment, Method
from compressbench.models import Network
from compressbench.models.structure import AnyModule
from compressbench.pruning.blocks import prunable_layers, record_connected, weights_of
from compressbench.pruning.deployments import uniform
from compressbench.pruning.filters import (
    Shape,
    Widths,
    check_free,
    cost_of,
    from_scratch,
    inner_keys,
    producer_weights,
    random_filters,
    strongest_filters,
    uniform_widths,
    widths_within,
)
from compressbench.pruning.masks import apply_masks, removed_count
from compressbench.pruning.one_shot import record_untrained_quality
from compressbench.pruning.surgery import keep_filters

Budget = Literal["weights", "macs"]


def prunable_producers(model: Network) -> list[str]:
    """The prunable convolutions whose outputs take part in no sum, by name; first layer and classifier stay as wide."""
    free = set(inner_keys(model))
    return [name for name in prunable_layers(model) if name in free]


def cost(model: nn.Module, shape: Shape, budget: Budget) -> int:
    """Weights, or multiply-accumulates, of convolutions and linear layers."""
    return sum(getattr(row, "kept_weights" if budget == "weights" else "macs") for row in _rows(model, shape))


def block_budget(model: nn.Module, sparsity: float, shape: Shape, budget: Budget) -> int:
    """What the network costs when `sparsity` of every prunable layer is removed: the block methods' cost."""
    prunable = set(prunable_layers(model))
    saved = (
        removed_count(row.weights, sparsity) * (1 if budget == "weights" else row.positions)
        for row in _rows(model, shape)
        if row.name in prunable
    )
    return cost(model, shape, budget) - sum(saved)


def _rows(model: nn.Module, shape: Shape) -> list[accounting.LayerCount]:
    return [row for row in accounting.layer_table(model, shape) if row.kind in ("conv", "linear")]


def masked_filters(model: AnyModule, kept: dict[str, Tensor]) -> AnyModule:
    """Set all other filters to 0, in place; batch norm still adds its shift there and the next layer still reads it."""
    masks = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights_of(model, kept).items()}
    for name, filters in kept.items():
        masks[name][filters] = True
    return apply_masks(model, masks)


class L1Filter(Method):
    """Remove the filters of smallest l1 norm at one rate in every layer, fine-tune."""

    class Config(MethodConfig):
        """How much, which filters, and whether they are cut out or only set to 0."""

        sparsity: float = Field(0.5, ge=0, lt=1, description="the block methods' sparsity whose cost is met")
        macs_reduction: float | None = Field(
            None,
            gt=0,
            lt=1,
            description="instead: the share of the network's MACs that is removed, first layer included",
        )
        form: Literal["physical", "masked"] = Field(
            "physical",
            description="cut out at equal cost, or floor(p c) filters of each layer set to 0 (as 1xN's paper)",
        )
        budget: Budget = Field("weights", description="cost that is met by the physical form")
        filters: Literal["l1", "random"] = Field("l1", description="which filters stay")
        weights: Literal["inherited", "scratch"] = Field(
            "inherited", description="scratch: the narrow network from random weights, for the total budget"
        )

        @model_validator(mode="after")
        def _consistent(self) -> "L1Filter.Config":
            if self.macs_reduction is not None and self.form == "masked":
                raise ValueError("macs_reduction is for form: physical; masked filters have a sparsity")
            return self

    config: Config

    def check(self, network: Network) -> None:
        if self.config.form == "physical":
            check_free(network)

    def compress(self, ctx: Context) -> Network:
        dense = ctx.dense()
        model = self._masked(ctx, dense) if self.config.form == "masked" else self._narrow(ctx, dense)
        record_untrained_quality(ctx, model)
        return model

    def _masked(self, ctx: Context, dense: Network) -> Network:
        weights = weights_of(dense, prunable_layers(dense))
        counts = {name: len(w) - removed_count(len(w), self.config.sparsity) for name, w in weights.items()}
        model = masked_filters(dense, self._kept(ctx, weights, counts))
        masks = {name: layer.mask for name, layer in masked_layers(model).items()}
        record_connected(ctx, model, masks)
        return model

    def _narrow(self, ctx: Context, dense: Network) -> Network:
        widths = self._widths(ctx, dense)
        if self.config.weights == "scratch":
            return from_scratch(ctx, dense, widths)
        return keep_filters(dense, self._kept(ctx, producer_weights(dense, list(widths)), widths))

    def _kept(self, ctx: Context, weights: dict[str, Tensor], counts: Widths) -> dict[str, Tensor]:
        generator = ctx.generator("filters")
        if self.config.filters == "random":
            return {name: random_filters(w, counts[name], generator) for name, w in weights.items()}
        return {name: strongest_filters(w, counts[name]) for name, w in weights.items()}

    def _widths(self, ctx: Context, dense: Network) -> Widths:
        config, shape = self.config, ctx.info.image_shape
        keys, budget = prunable_producers(dense), config.budget
        if config.macs_reduction is None:
            target = block_budget(dense, config.sparsity, shape, budget)
        else:
            keys, budget = inner_keys(dense), "macs"
            target = int(cost(dense, shape, budget) * (1 - config.macs_reduction))
        try:
            widths = widths_within(
                dense, lambda rate: uniform_widths(dense, keys, rate), lambda m: cost(m, shape, budget), target
            )
        except UserError as error:
            raise UserError(f"l1_filter: {error}") from None
        ctx.record("budget_used", cost_of(dense, widths, lambda m: cost(m, shape, budget)) / target)
        return widths

    def finetune(self, ctx: Context, model: Network) -> Network:
        scratch = self.config.weights == "scratch"
        return ctx.fit(model, ctx.recipes.scratch if scratch else ctx.recipes.finetune)

    @classmethod
    def deployments(cls) -> list[Deployment]:
        cifar = ("VGG-16 (CIFAR)", "ResNet-56 (CIFAR)", "ResNet-110 (CIFAR)", "GoogLeNet (CIFAR)")
        return [
            uniform(network, removed, (network, removed) == ("ResNet-50", 0.5))
            for network in (*cifar, "ResNet-50", "MobileNet-V2")
            for removed in (0.5, 0.75)
        ]
