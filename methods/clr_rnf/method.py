"""CLR-RNF (arXiv 2202.07190): a cross-layer ranking chooses how many filters are kept, reciprocal nearest filters which."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.config import MethodConfig
from compressbench.errors import UserError
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.structure import submodule
from compressbench.pruning.deployments import narrow, uniform
from compressbench.pruning.filters import (
    Shape,
    Widths,
    check_free,
    cost_of,
    couplings_like,
    from_scratch,
    macs,
    producer_weights,
    random_filters,
    rate_within,
    strongest_filters,
    uniform_widths,
    widths_within,
)
from compressbench.pruning.one_shot import record_untrained_quality
from compressbench.pruning.surgery import keep_filters
from methods.clr_rnf import counts
from methods.clr_rnf.selection import cross_layer_rates, reciprocal_nearest, relative_costs

Kept = Mapping[str, Tensor]
# of the multiply-accumulates of ResNet-50, from the FLOPs of published.csv; the learned structures are not published
LEARNED_REDUCTIONS = (0.405, 0.702, 0.774)


class CLRRNF(Method):
    """Rank all weights together, cut every layer to its share, keep the most central filters, fine-tune."""

    class Config(MethodConfig):
        """The ranking, what is ranked, and the controls."""

        ratio: float | None = Field(
            None, ge=0, lt=1, description="rho: share of the ranked weights below the threshold"
        )
        macs_reduction: float | None = Field(
            None, gt=0, lt=1, description="instead of ratio: the share of the MACs to remove; the ratio follows"
        )
        power: float = Field(0.5, ge=0, description="lambda: magnitudes are divided by cost ** power")
        layers: tuple[str, ...] = Field(("*",), min_length=1, description="patterns of the widths that are ranked")
        costs: dict[str, float] | None = Field(
            None, description="pattern of widths -> relative cost; default: operations of the layer or block"
        )
        follows: dict[str, str] = Field({}, description="width -> ranked width whose rate it takes over")
        least: int = Field(0, ge=0, description="fewest filters of a layer; 0: a layer that would vanish is an error")
        structure: Literal["ranked", "uniform"] = Field("ranked", description="uniform: one rate for all layers")
        filters: Literal["reciprocal", "l1", "random"] = Field("reciprocal", description="which filters stay")
        weights: Literal["inherited", "scratch", "short_scratch"] = Field(
            "inherited",
            description="scratch: the same widths from random weights, for the total budget; short: as long as fine-tuning",
        )
        reset: Literal["all", "pruned", "none"] = Field(
            "pruned",
            description="what starts afresh: biases, batch norms and classifier; those of pruned layers; nothing",
        )

        @model_validator(mode="after")
        def _consistent(self) -> "CLRRNF.Config":
            if (self.ratio is None) == (self.macs_reduction is None):
                raise ValueError("give either ratio or macs_reduction")
            if self.structure == "uniform" and self.macs_reduction is None:
                raise ValueError("structure: uniform needs macs_reduction")
            return self

        @property
        def macs_kept(self) -> float:
            """The share of the MACs to keep; all of them where a ratio says what goes."""
            return 1 - (self.macs_reduction or 0)

    config: Config

    def check(self, network: Network) -> None:
        check_free(network)
        couplings_like(network, self.config.layers)

    def compress(self, ctx: Context) -> Network:
        dense = ctx.dense()
        widths = self._widths(ctx, dense)
        if self.config.weights != "inherited":
            return from_scratch(ctx, dense, widths)
        kept = self.kept(dense, widths, ctx.generator("filters"))
        ctx.record("kept_norm", mean_kept_norm(producer_weights(dense, list(kept)), kept))
        model = restart(keep_filters(dense, kept), list(kept), self.config.reset, ctx.generator("classifier"))
        if self.config.reset != "all":  # a fresh classifier is at chance, whatever stands before it
            record_untrained_quality(ctx, model)
        return model

    def finetune(self, ctx: Context, model: Network) -> Network:
        scratch = self.config.weights == "scratch"
        return ctx.fit(model, ctx.recipes.scratch if scratch else ctx.recipes.finetune)

    def _widths(self, ctx: Context, dense: Network) -> Widths:
        config, cost = self.config, macs(ctx.info.image_shape)
        total = cost(dense)
        if config.structure == "uniform":
            keys, target = list(couplings_like(dense, config.layers)), total * config.macs_kept
            widths = widths_within(dense, lambda rate: uniform_widths(dense, keys, rate), cost, target)
        else:
            ranking = Ranking(config, dense, ctx.info.image_shape)
            rate = ranking.rate()
            widths = ranking.widths(rate)
            ctx.record("ratio", rate)
            ctx.record("macs_reduction_without_costs", 1 - cost_of(dense, ranking.widths(rate, power=0), cost) / total)
        ctx.record("macs_reduction", 1 - cost_of(dense, widths, cost) / total)
        return widths

    def kept(self, dense: Network, widths: Widths, generator: Generator) -> dict[str, Tensor]:
        """The filters of every narrowed width, ascending.

        A residual sum is chosen by its first convolution, whose columns have been cut by then: all its convolutions
        keep the same channels.
        """
        chosen: dict[str, Tensor] = {}
        weights = producer_weights(dense, list(widths))
        couplings = dense.couplings()
        for coupling in (c for c in couplings if c.key in widths):
            weight, count = weights[coupling.key], widths[coupling.key]
            read = next((c.key for c in couplings if coupling.producer in c.consumers), None)
            if coupling.group is not None and read in chosen:
                weight = weight.index_select(1, chosen[read])
            if self.config.filters == "random":
                chosen[coupling.key] = random_filters(weight, count, generator)
            else:
                select = reciprocal_nearest if self.config.filters == "reciprocal" else strongest_filters
                chosen[coupling.key] = select(weight, count)
        return chosen

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Costs of the dense networks and of the hand-designed structures that the authors compare with."""
        return counts.recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        learned = [uniform("ResNet-50", removed, removed == 0.702) for removed in LEARNED_REDUCTIONS]
        return [*narrow(counts.structures()), *learned]


class Ranking:
    """Cross-layer ranking of one dense network: rate -> widths."""

    def __init__(self, config: CLRRNF.Config, dense: Network, shape: Shape):
        self.config, self.dense, self.shape = config, dense, shape
        self.ranked = couplings_like(dense, config.layers)
        self.groups = {
            key: [dense.get_parameter(f"{name}.weight") for name in (c.producer, *(conv for conv, _ in c.added))]
            for key, c in self.ranked.items()
        }
        self.costs = self._costs()

    def _costs(self) -> dict[str, float]:
        if self.config.costs is None:
            units = [key.rpartition(".")[0] for key in self.ranked]
            return dict(zip(self.ranked, relative_costs(self.dense, self.shape, units), strict=True))
        found = {}
        for key in self.ranked:
            fitting = [cost for pattern, cost in self.config.costs.items() if fnmatchcase(key, pattern)]
            if not fitting:
                raise UserError(f"clr_rnf: costs has no entry for {key}; add a pattern that fits.")
            found[key] = fitting[0]
        return found

    def rate(self) -> float:
        """The configured ratio, or the smallest one that removes the configured share of the MACs."""
        if self.config.ratio is not None:
            return self.config.ratio
        cost = macs(self.shape)
        target = cost(self.dense) * self.config.macs_kept
        return rate_within(lambda rate: cost_of(self.dense, self.widths(rate), cost), target)

    def widths(self, rate: float, power: float | None = None) -> Widths:
        """m_l = int(C_l (1 - p_l)) of every ranked width, and of those that follow one."""
        rates = cross_layer_rates(self.groups, self.costs, self.config.power if power is None else power, rate)
        rates |= {key: rates[leader] for key, leader in self.config.follows.items()}
        sizes = {key: len(weight) for key, weight in producer_weights(self.dense, list(rates)).items()}
        least = max(self.config.least, int(self.config.macs_reduction is not None))
        widths = {key: max(least, int(size * (1 - rates[key]))) for key, size in sizes.items()}
        if vanished := [key for key, width in widths.items() if width == 0]:
            raise UserError(
                f"clr_rnf: ratio {rate:g} leaves no filter of {vanished[0]}; choose a lower ratio, or set least to 1."
            )
        return widths


def mean_kept_norm(weights: Mapping[str, Tensor], kept: Kept) -> float:
    """Mean over layers of the l2 norm of the kept filters, over that of all filters."""
    norms = {name: weight.detach().flatten(1).norm(dim=1) for name, weight in weights.items()}
    return sum(float(n[kept[name]].mean() / n.mean()) for name, n in norms.items()) / len(norms)


def restart(model: Network, pruned: list[str], reset: str, generator: Generator) -> Network:
    """Fresh batch norms (1, 0, 0, 1) and zero biases: of the pruned layers, or of all; with "all" the classifier, too.

    In place; what the published code does not copy: VGG inherits convolution weights only, ResNet-56 and GoogLeNet
    everything that is not behind a pruned layer, ResNet-50 everything.
    """
    if reset == "none":
        return model
    chosen = {key: c for key, c in couplings_like(model, ["*"]).items() if reset == "all" or key in pruned}
    for coupling in chosen.values():
        for conv, norm in coupling.outputs:
            bias = submodule(model, conv, nn.Conv2d).bias
            if bias is not None:
                nn.init.zeros_(bias)
            if norm is not None:
                submodule(model, norm, _BatchNorm).reset_parameters()
    if reset == "all":
        weight = model.get_parameter("classifier.weight")
        nn.init.normal_(fresh := torch.empty(weight.shape), 0, 0.01, generator=generator)
        weight.data.copy_(fresh)
        nn.init.zeros_(model.get_parameter("classifier.bias"))
    return model
