"""L1-norm filter pruning (Li et al. 2017), one shot, at the cost that 1xN blocks of the same sparsity leave."""

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressbench import accounting
from compressbench.compression.blocks import connected_share, prunable_layers, weights_of
from compressbench.compression.layers import masked_layers
from compressbench.compression.masks import apply_masks, removed_count
from compressbench.compression.one_shot import record_untrained_quality
from compressbench.compression.surgery import build_narrow, keep_filters
from compressbench.errors import UserError
from compressbench.method import Method, MethodConfig
from compressbench.seeding import derive_seed

if TYPE_CHECKING:
    from compressbench.stages.context import Context

Shape = tuple[int, int, int]
Budget = Literal["weights", "macs"]


def weakest_filters(weight: Tensor, count: int) -> Tensor:
    """Indices of the `count` filters of smallest l1 norm: weight [c_out, ...] -> int64 [count]."""
    return weight.detach().abs().flatten(1).sum(1).argsort(stable=True)[:count]


def prunable_producers(model: nn.Module) -> list[str]:
    """The prunable convolutions whose outputs take part in no sum, by name; first layer and classifier stay as wide."""
    free = {coupling.producer for coupling in model.inner_couplings()}  # type: ignore[operator]
    return [name for name in prunable_layers(model) if name in free]


def narrow_widths(model: nn.Module, rate: float) -> dict[str, int]:
    """One rate for every free layer: c - floor(rate c) filters stay, at least 1."""
    weights = weights_of(model, prunable_producers(model))
    return {name: max(1, len(weight) - removed_count(len(weight), rate)) for name, weight in weights.items()}


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


def cost_of(model: nn.Module, widths: dict[str, int], shape: Shape, budget: Budget) -> int:
    """The cost of the architecture at other widths, without building its tensors."""
    with torch.device("meta"):
        return cost(build_narrow(model, widths), shape, budget)


def widths_within(model: nn.Module, target: int, shape: Shape, budget: Budget, steps: int = 12) -> dict[str, int]:
    """The widest network with one common rate whose cost is at most `target`, by bisection of the rate."""

    def narrow_cost(rate: float) -> int:
        return cost_of(model, narrow_widths(model, rate), shape, budget)

    low, high = 0.0, 1.0
    if narrow_cost(high) > target:
        raise UserError(
            f"l1_filter: one filter per free layer costs {narrow_cost(high)} {budget}, the block methods {target}; "
            "choose a lower sparsity in methods/baselines/l1_filter/config.yaml."
        )
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if narrow_cost(middle) <= target else (middle, high)
    return narrow_widths(model, high)


def masked_filters(model: nn.Module, removed: dict[str, Tensor]) -> nn.Module:
    """Set whole filters to 0, in place; batch norm still adds its shift there and the next layer still reads it."""
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights_of(model, removed).items()}
    for name, filters in removed.items():
        masks[name][filters] = False
    return apply_masks(model, masks)


class L1Filter(Method):
    """Remove the filters of smallest l1 norm at one rate in every layer, fine-tune."""

    class Config(MethodConfig):
        """How much, which filters, and whether they are cut out or only set to 0."""

        sparsity: float = Field(0.5, ge=0, lt=1, description="the block methods' sparsity whose cost is met")
        form: Literal["physical", "masked"] = Field(
            "physical",
            description="cut out at equal cost, or floor(p c) filters of each layer set to 0 (as 1xN's paper)",
        )
        budget: Budget = Field("weights", description="cost that is met by the physical form")
        filters: Literal["l1", "random"] = Field("l1", description="which filters stay")
        weights: Literal["inherited", "scratch"] = Field(
            "inherited", description="scratch: the narrow network from random weights, for the total budget"
        )

    config: Config

    def compress(self, ctx: "Context") -> nn.Module:
        config, dense = self.config, ctx.dense()
        generator = ctx.generator("filters")
        if config.form == "masked":
            weights = weights_of(dense, prunable_layers(dense))
            model = masked_filters(dense, {n: self._removed(weight, generator) for n, weight in weights.items()})
            masks = {name: layer.mask for name, layer in masked_layers(model).items()}
            ctx.record("connected", connected_share(masks, model.couplings()))  # type: ignore[operator]
        else:
            model = self._narrow(ctx, dense, generator)
        record_untrained_quality(ctx, model)
        return model

    def _removed(self, weight: Tensor, generator: torch.Generator, count: int | None = None) -> Tensor:
        """Indices of the filters to remove; `count` defaults to floor(p c_out)."""
        count = removed_count(weight.shape[0], self.config.sparsity) if count is None else count
        if self.config.filters == "random":
            return torch.randperm(weight.shape[0], generator=generator)[:count].to(weight.device)
        return weakest_filters(weight, count)

    def _narrow(self, ctx: "Context", dense: nn.Module, generator: torch.Generator) -> nn.Module:
        shape = (ctx.info.channels, ctx.info.size or 32, ctx.info.size or 32)
        target = block_budget(dense, self.config.sparsity, shape, self.config.budget)
        widths = widths_within(dense, target, shape, self.config.budget)
        ctx.record("budget_used", cost_of(dense, widths, shape, self.config.budget) / target)
        if self.config.weights == "scratch":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(ctx.seed, "initialisation"))
                return build_narrow(dense, widths).to(ctx.device)
        kept = {}
        for name, weight in weights_of(dense, widths).items():
            keep = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
            keep[self._removed(weight, generator, len(weight) - widths[name])] = False
            kept[name] = keep.nonzero()[:, 0]
        return keep_filters(dense, kept)

    def finetune(self, ctx: "Context", model: nn.Module) -> nn.Module:
        scratch = self.config.weights == "scratch"
        return ctx.fit(model, ctx.recipes.scratch if scratch else ctx.recipes.finetune)
