"""OptG (arXiv 2201.12826): every weight has a trainable score; the largest scores of the whole network stay."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressbench import accounting
from compressbench.config import MethodConfig
from compressbench.errors import UserError
from compressbench.layers.masked import masked, masked_layers
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.models.published import PublishedNetwork
from compressbench.models.structure import AnyModule
from compressbench.pruning.config import record_densities
from compressbench.pruning.deployments import sparse_networks
from compressbench.pruning.masks import Masks, apply_masks, regrown_fraction
from compressbench.pruning.trained_masks import SCORED, scores
from compressbench.training import Hook, State


def masks_from_scores(scores: Mapping[str, Tensor], keep: int) -> Masks:
    """M = [S >= t], t the keep-th largest score of all layers together. Ties with t are kept, never broken."""
    ranked = torch.cat([s.flatten() for s in scores.values()]).sort(descending=True).values
    threshold = ranked[max(keep, 1) - 1]
    return {name: s >= threshold for name, s in scores.items()}


@dataclass(frozen=True)
class Schedule:
    """Sparsity and both learning rates as functions of the epoch e = 0 ... epochs - 1 (here: of the slice)."""

    epochs: int
    sparsity: float
    lr0: float
    warmup: int = 5
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 2 or self.beta <= 0 or not 0 <= self.sparsity < 1:
            raise ValueError("OptG needs at least 2 mask updates, beta > 0 and a sparsity in [0, 1)")
        if (short := 1 - self.sigma(self.epochs - 1)) > 1e-3:
            raise ValueError(
                f"{self.epochs} mask updates with beta {self.beta} end {short:.2g} short of the target sparsity "
                "(1e-3 is allowed); use more slices"
            )

    def sigma(self, e: float) -> float:
        """1 / (1 + exp(-beta (e - E/2)))."""
        return 1 / (1 + math.exp(-self.beta * (e - self.epochs / 2)))

    def sparsity_at(self, e: int) -> float:
        """P(e) = P sigma(e); exactly P in the last epoch."""
        return self.sparsity if e == self.epochs - 1 else self.sparsity * self.sigma(e)

    def lr(self, e: int) -> float:
        """Warm-up by epoch, then a cosine that the warm-up does not shift (it jumps at e = warmup)."""
        if e < self.warmup:
            return self.lr0 * (e + 1) / self.warmup
        return self.lr0 * (1 + math.cos(math.pi * e / self.epochs)) / 2

    def score_lr(self, e: int) -> float:
        """lr_mask(e) = lr(e) sigma(e)."""
        return self.lr(e) * self.sigma(e)


class MaskOptimiser(Hook):
    """Ranks the scores and sets both learning rates at the start of every epoch; nothing changes in between."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule

    def on_epoch_start(self, state: State) -> None:
        e, schedule = state.epoch, self.schedule
        state.metrics["regrown"] = rank(state.model, schedule.sparsity_at(e))
        state.metrics["sparsity"] = schedule.sparsity_at(e)
        weights, score = state.optimizers[0].param_groups
        weights["lr"], score["lr"] = schedule.lr(e), schedule.score_lr(e)


def rank(model: nn.Module, sparsity: float) -> float:
    """Set all masks from the scores, keeping floor(N (1 - sparsity)); returns the share of returning weights."""
    layers = masked_layers(model)
    values = {name: score.detach() for name, score in scores(model).items()}
    before = {name: layer.mask.clone() for name, layer in layers.items()}
    masks = masks_from_scores(values, int(sum(s.numel() for s in values.values()) * (1 - sparsity)))
    for name, layer in layers.items():
        layer.mask.copy_(masks[name])
    return regrown_fraction(before, masks)


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Everything but the scores, with the recipe's weight decay; the scores, without any."""
    named = list(model.named_parameters())
    weights = [p for name, p in named if not name.endswith("score")]
    return [{"params": weights}, {"params": [p for name, p in named if name.endswith("score")], "weight_decay": 0.0}]


def export(trained: nn.Module, plain: AnyModule) -> AnyModule:
    """`plain` (the same architecture) with the trained tensors and masks, removed weights at 0 and no scores."""
    masks = {name: layer.mask for name, layer in masked_layers(trained).items()}
    state = {name: t for name, t in trained.state_dict().items() if not name.endswith(".score")}
    masked(plain).load_state_dict(state, strict=True)
    return apply_masks(plain, masks)


class OptG(Method):
    """Masks, scores and weights are trained together, in one run from random weights."""

    class Config(MethodConfig):
        """Epochs, batch size, lr0 and weight decay are the pair's shared budget (recipes.scratch)."""

        sparsity: float = Field(0.9, ge=0, lt=1, description="P: fraction removed of all weights of all layers")
        beta: float = Field(1.0, gt=0, description="steepness of the sigmoid, per slice")
        slices: int | None = Field(None, ge=2, description="mask updates in the run; default: one per epoch")
        warmup: int = Field(5, ge=0, description="slices of learning-rate warm-up")

        @model_validator(mode="after")
        def _reaches_the_target(self) -> "OptG.Config":
            if self.slices is not None:
                Schedule(self.slices, self.sparsity, 1.0, self.warmup, self.beta)
            return self

    config: Config

    def compress(self, ctx: Context) -> Network:
        recipe, config = ctx.recipes.scratch, self.config
        slices, steps = ctx.sliced(recipe, config.slices)
        try:
            schedule = Schedule(slices, config.sparsity, recipe.lr, config.warmup, config.beta)
        except ValueError as error:
            raise UserError(f"optg, key slices: {error}.") from None
        model = masked(ctx.build(), forms=SCORED)
        ctx.fit(
            model,
            recipe,
            optimizers=[ctx.optimizer(recipe, parameter_groups(model))],
            hooks=[MaskOptimiser(schedule)],
            epochs=slices,
            steps_per_epoch=steps,
            schedule=None,
        )
        record_densities(ctx, model)
        result = export(model, ctx.build())
        self._record_reranking(ctx, model)
        return result

    def _record_reranking(self, ctx: Context, model: nn.Module) -> None:
        """What the authors' evaluation does: rank the final scores once more, and use those masks."""
        for name, value in ctx.validate(model).items():
            ctx.record(f"{name}_last_masks", value)
        ctx.record("reranking_regrown", rank(model, self.config.sparsity))
        for name, value in ctx.validate(model).items():
            ctx.record(f"{name}_reranked", value)

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Maskable weights, MACs and parameters of the published networks; weights kept at the published sparsities."""
        return [count for network in PUBLISHED for count in network.counts()]

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return sparse_networks()


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A network of the paper or its code, as the authors build it, and the sparsities that they publish."""

    sparsities: dict[str, float]

    def counts(self) -> list[PublishedCount]:
        counts = accounting.account(self.build(), self.shape)
        dense = {"weights": counts.weights, "macs": counts.macs, "params": counts.params}
        kept = {setting: int(counts.weights * (1 - p)) for setting, p in self.sparsities.items()}
        return [
            *(PublishedCount(self.name, "dense", metric, value) for metric, value in dense.items()),
            *(PublishedCount(self.name, setting, "kept_weights", value) for setting, value in kept.items()),
        ]


_IMAGENET, _CIFAR = 224, 32
_RESNET_CIFAR: dict[str, object] = {
    "blocks": (8, 8, 8),
    "widths": (32, 64, 128),
    "shortcut": "pad",
    "classifier": "conv",
}
PUBLISHED = (
    Published(
        "resnet50",
        "resnet50",
        {"classifier": "conv"},
        _IMAGENET,
        {"p90": 0.9, "p95": 0.95, "p965": 0.965, "p98": 0.98, "p99": 0.99},
    ),
    Published("mobilenet_v1", "mobilenet_v1", {"classifier": "conv"}, _IMAGENET, {"p80": 0.8, "p90": 0.9}),
    Published("resnet50_cifar", "resnet_cifar", _RESNET_CIFAR, _CIFAR, {}),
    Published("vgg19_cifar10", "vgg", {"depth": 19, "classes": 10}, _CIFAR, {}),
    Published("vgg19_cifar100", "vgg", {"depth": 19, "classes": 100}, _CIFAR, {}),
)
