"""White-Box (arXiv 2104.11883): channels get a mask per class, all classes vote, a FLOPs target decides how many are kept."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from compressbench.config import MethodConfig, Recipe
from compressbench.errors import UserError
from compressbench.finite import best_class
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import Network
from compressbench.pruning.deployments import uniform
from compressbench.pruning.filters import check_free, from_scratch, producer_weights, random_filters, strongest_filters
from compressbench.pruning.surgery import keep_filters
from compressbench.seeding import derive_seed
from methods.white_box.class_masks import ClassMasks, class_loss
from methods.white_box.counts import PUBLISHED
from methods.white_box.layout import Layout, lay_out
from methods.white_box.narrowing import fold_masks, renew, reset_norms, scale_norms
from methods.white_box.voting import Election, FlopsAtWidths, RandomLayer, vote

BATCH = 100
Counter = Literal["with_bn", "with_bn_window_pool", "with_bn_no_pool", "macs"]


# of the multiply-accumulates, from published.csv; the structures themselves are not published
PUBLISHED_REDUCTIONS = (
    ("VGG-16 (CIFAR)", 0.764),
    ("ResNet-56 (CIFAR)", 0.556),
    ("ResNet-110 (CIFAR)", 0.66),
    ("MobileNet-V2 (CIFAR)", 0.292),
    ("ResNet-50", 0.456),
    ("ResNet-50", 0.635),
)


class WhiteBox(Method):
    """Train class-wise masks with the network, let the classes vote, fold the masks, fine-tune the narrow network."""

    class Config(MethodConfig):
        """What is cut, how the class network trains, and what of it the narrow network inherits."""

        macs_reduction: float = Field(
            0.75, gt=0, lt=1, description="fraction of the FLOPs to remove; the vote ends just above"
        )
        strength: float = Field(0.01, ge=0, description="λ of the penalty Σ_l ‖Σ_k M_l[k, :]‖₂")
        class_epochs: int = Field(30, ge=1, description="epochs of class training, at the recipe's constant peak rate")
        finetune_epochs: int | None = Field(None, ge=1, description="epochs after the vote; default: the recipe's")
        layers: tuple[str, ...] = Field(("*",), description="shell patterns of the single convolutions that have masks")
        before_norm: tuple[str, ...] = Field(
            ("stages.*.conv1",),
            description="those whose mask lies between convolution and batch norm; elsewhere it lies after the activation",
        )
        last: Literal["random", "voted"] = Field(
            "random", description="channels of the convolution that only the classifier reads, where there is one"
        )
        last_width: int | None = Field(
            None, ge=1, description="number of its random channels; default: int(C (1 - cut of the round before))"
        )
        outer: bool = Field(
            False, description="convolutions of residual sums have masks, which are ranked but never used"
        )
        fold_outer: bool = Field(False, description="their batch norms are scaled by those masks when the vote is over")
        min_preserve: float = Field(0.3, ge=0, le=1, description="part of its channels that a layer keeps at least")
        noise: bool = Field(True, description="false: only the row of the sample's own class")
        filters: Literal["voted", "random", "l1"] = Field("voted", description="controls: others at the voted widths")
        weights: Literal["inherited", "scratch"] = Field(
            "inherited", description="scratch: the voted widths from random weights, for the total budget"
        )
        reset_bn: bool = Field(False, description="fresh batch norms in the pruned layers instead of scaled ones")
        fresh: tuple[str, ...] = Field((), description="shell patterns of modules that are initialised anew")
        convention: Counter = Field("with_bn", description="the FLOPs counter of macs_reduction")

        @model_validator(mode="after")
        def _consistent(self) -> "WhiteBox.Config":
            if self.last_width is not None and self.last == "voted":
                raise ValueError("last_width goes with last: random")
            if self.fold_outer and (self.reset_bn or not self.outer):
                raise ValueError("fold_outer goes with outer: true, and not with reset_bn")
            if self.weights == "scratch" and (self.filters != "voted" or self.reset_bn):
                raise ValueError(
                    "weights: scratch inherits neither filters nor batch norms; leave out filters and reset_bn"
                )
            return self

    config: Config

    def check(self, network: Network) -> None:
        check_free(network)
        config = self.config
        layout = lay_out(network, config.layers, config.outer, config.last == "random", config.last_width)
        layout.sites(config.before_norm)

    def compress(self, ctx: Context) -> Network:
        network = ctx.build()
        config = self.config
        layout = lay_out(network, config.layers, config.outer, config.last == "random", config.last_width)
        flops = FlopsAtWidths(network, ctx.info.image_shape, config.convention)
        self._check_target(layout.largest_cut(network, flops, config.min_preserve))
        masks = self._train_masks(ctx, network, layout)
        record_label_dependence(ctx, masks)
        scores = layout.ranked(masks.scores())
        election = vote(
            scores, layout.voters, flops.cut, config.macs_reduction, config.min_preserve, layout.random_layer
        )
        ctx.record("macs_reduction", election.last.cut)
        ctx.record("keep_rate", election.last.rate)
        if config.weights == "scratch":
            return from_scratch(ctx, network, election.last.widths)
        narrow = self._narrow(ctx, masks, layout, election)
        for name, value in ctx.validate(narrow).items():
            ctx.record(f"{name}_pruned", value)
        return narrow

    def _check_target(self, reachable: float) -> None:
        """Before any training: the floors of the layers bound what can be removed."""
        if reachable < self.config.macs_reduction:
            raise UserError(
                f"white_box: macs_reduction is {self.config.macs_reduction}, but layers keep {self.config.min_preserve:.0%} of "
                f"their channels at least, so that {reachable:.4f} can be removed; lower macs_reduction or min_preserve."
            )

    def _train_masks(self, ctx: Context, network: Network, layout: Layout) -> ClassMasks:
        """One optimiser for weights and masks: same rate, same decay."""
        config = self.config
        masks = ClassMasks(network, layout.names, layout.sites(config.before_norm), ctx.info.classes, config.noise)
        recipe = class_recipe(ctx.recipes.scratch, config.class_epochs)
        ctx.fit(masks, recipe, name="class_training", loss=class_loss(config.strength, recipe.label_smoothing))
        return masks

    def _narrow(self, ctx: Context, masks: ClassMasks, layout: Layout, election: Election) -> Network:
        """The kept channels with the mean masks in their batch norms (or with fresh ones)."""
        config, network = self.config, masks.network
        voted = self._chosen(ctx, network, election)
        kept = voted | self._drawn(ctx, network, layout.random_layer, election)
        narrow = keep_filters(network, kept)
        if config.reset_bn:
            reset_norms(narrow, [c for c in network.couplings() if c.key in kept])
        else:
            fold_masks(narrow, layout.masked, voted, masks.mean_masks())
        if config.fold_outer:
            for name, norm in layout.outer.items():
                scale_norms(narrow, [norm], masks.mean_masks()[name])
        if config.fresh:
            renew(narrow, from_scratch(ctx, network, election.last.widths), config.fresh)
        return narrow

    def _chosen(self, ctx: Context, network: Network, election: Election) -> dict[str, Tensor]:
        """The elected channels, or the controls' choice of as many."""
        if self.config.filters == "voted":
            return election.kept
        weights, widths = producer_weights(network, list(election.kept)), election.last.widths
        if self.config.filters == "l1":
            return {key: strongest_filters(w, widths[key]) for key, w in weights.items()}
        generator = ctx.generator("filters")
        return {key: random_filters(w, widths[key], generator) for key, w in weights.items()}

    @staticmethod
    def _drawn(
        ctx: Context, network: Network, random_layer: RandomLayer | None, election: Election
    ) -> dict[str, Tensor]:
        """The channels of the layer that does not vote."""
        if random_layer is None:
            return {}
        weight = producer_weights(network, [random_layer.key])[random_layer.key]
        return {
            random_layer.key: random_filters(
                weight, election.last.widths[random_layer.key], ctx.generator("last layer")
            )
        }

    def finetune(self, ctx: Context, model: Network) -> Network:
        recipe, config = ctx.recipes.scratch, self.config
        epochs = config.finetune_epochs or recipe.epochs
        if config.weights == "scratch":
            epochs += config.class_epochs
        return ctx.fit(model, recipe.model_copy(update={"epochs": epochs}))

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        """Counts of the published networks and the largest cuts that their floors allow."""
        return [count for network in PUBLISHED for count in network.counts()]

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return [uniform(network, removed, removed == 0.635) for network, removed in PUBLISHED_REDUCTIONS]


def class_recipe(recipe: Recipe, epochs: int) -> Recipe:
    """The peak rate of `recipe` throughout: no warm-up, no decay."""
    constant = {"schedule": "constant", "milestones": (), "halve_every": None, "warmup_epochs": 0}
    return recipe.model_copy(update={"epochs": epochs} | constant)


@torch.no_grad()
def record_label_dependence(ctx: Context, masks: ClassMasks) -> None:
    """Validation accuracy (%) of forward passes with the true labels, with wrong ones, and with none (the mean mask).

    Accuracy while labels enter the forward pass measures the masks' hint, not the network.
    """
    held_out, labels, classes = ctx.held_out, ctx.held_out.labels, ctx.info.classes
    shift = torch.randint(1, classes, labels.shape, generator=ctx.generator("wrong labels"))
    torch.manual_seed(derive_seed(ctx.seed, ctx.stage, "label dependence"))
    for name, told in {"true": labels, "wrong": (labels + shift) % classes}.items():
        batches = zip(held_out.in_batches(BATCH), told.split(BATCH), strict=True)
        guesses = [
            best_class(masks.told(x.to(ctx.device), t.to(ctx.device)), "white_box").cpu() for (x, _), t in batches
        ]
        ctx.record(f"class_top1_told_{name}", 100 * (torch.cat(guesses) == labels).float().mean().item())
    ctx.record("class_top1_mean_mask", ctx.validate(masks)["validation_top1"])
