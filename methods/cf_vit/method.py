"""CF-ViT (arXiv 2203.03821): a coarse pass, and a fine pass over the important regions of uncertain images."""

from typing import Any

from pydantic import Field
from torch import Tensor

from compressbench import quality
from compressbench.config import MethodConfig
from compressbench.data.mixing import MixedBatches
from compressbench.errors import UserError
from compressbench.method import Context, Deployment, Method, PublishedCount
from compressbench.models import ModelSpec, Network
from compressbench.models.structure import network_of
from compressbench.models.vit import CoarseOnly, CoarseToFineViT
from compressbench.seeding import derive_seed
from compressbench.training import Hook, State, WeightAverage, adamw
from methods.cf_vit.deployments import deployments
from methods.cf_vit.losses import MixTokenBatches, token_labelling_loss, two_pass_loss


class Selection(Hook):
    """All regions are refined until the epoch `after` (from 0), the important ones from the next epoch on."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_epoch_start(self, state: State) -> None:
        assert isinstance(state.model, CoarseToFineViT)
        state.model.regions = "top" if state.epoch > self.after else "all"


class CFViT(Method):
    """The joint training of both passes; early exits are operating points of its result."""

    class Config(MethodConfig):
        """Hyper-parameters of the paper on DeiT-S; LV-ViT-S differs in the last four."""

        alpha: float = Field(0.5, gt=0, le=1, description="share of the coarse patches that are refined")
        beta: float = Field(0.99, ge=0, lt=1, description="weight of the former layers in the global class attention")
        first_layer: int = Field(3, ge=0, description="the first layer (from 0) whose attention counts")
        select_after: int = Field(200, ge=-1, description="the last epoch (from 0) in which all regions are refined")
        thresholds: tuple[float, ...] = Field(
            (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), description="confidences of the early exits"
        )
        mixup: float = Field(0.8, ge=0, description="Beta parameter of mixup, 0 for off")
        cutmix: float = Field(1.0, ge=0, description="Beta parameter of CutMix, 0 for off")
        token_labels: bool = Field(False, description="LV-ViT: MixToken, and a loss on every token of the fine pass")
        average_decay: float | None = Field(
            None, gt=0, lt=1, description="LV-ViT: the result is the average of the weights"
        )

    config: Config

    def check(self, network: Network) -> None:
        self._check(network.spec)

    def _check(self, spec: ModelSpec) -> None:
        if spec.architecture != "vit":
            raise UserError(f"cf_vit starts from the architecture vit, not {spec.architecture}; choose another pair.")
        if self.config.token_labels and not spec.arguments.get("token_head"):
            raise UserError(
                "token_labels needs a pair whose transformer has token_head: true; choose another pair or setting."
            )

    def build(self, ctx: Context) -> CoarseToFineViT:
        """The pair's transformer with a coarse pass."""
        c = self.config
        self._check(ctx.spec)
        arguments = {"alpha": c.alpha, "beta": c.beta, "first_layer": c.first_layer, "thresholds": list(c.thresholds)}
        spec = ModelSpec("coarse_to_fine_vit", {"backbone": ctx.spec.arguments, **arguments})
        return network_of(ctx.build(spec), CoarseToFineViT)

    def compress(self, ctx: Context) -> Network:
        recipe, c = ctx.recipes.scratch, self.config
        if c.select_after >= recipe.epochs - 1:
            raise UserError(
                f"select_after is {c.select_after}, but the last of {recipe.epochs} epochs is {recipe.epochs - 1}: "
                "regions would never be selected; lower it."
            )
        model = self.build(ctx)
        optimizer = adamw(recipe, model)
        average = WeightAverage(optimizer, c.average_decay) if c.average_decay else None
        ctx.fit(
            model,
            recipe,
            loss=self.loss,
            batches=self.batches(ctx, model.grid),
            optimizers=[optimizer],
            hooks=[Selection(c.select_after), *([average] if average else [])],
            validate=lambda _: ctx.validate(model) | {"coarse_top1": quality.top1(CoarseOnly(model), ctx.held_out)},
        )
        if average:
            average.apply()
            ctx.recalibrate(model)
        record_regions(model, ctx)
        return model

    def batches(self, ctx: Context, grid: int) -> Any:
        """Batches with soft labels: mixed, or with a box of MixToken on the coarse grid of side `grid`."""
        recipe, c = ctx.recipes.scratch, self.config
        source, smoothing, seed = ctx.batches(recipe), recipe.label_smoothing, derive_seed(ctx.seed, "mixing")
        if c.token_labels:
            return MixTokenBatches(MixedBatches(source, ctx.info.classes, smoothing, 0, 0, seed), grid, seed)
        return MixedBatches(source, ctx.info.classes, smoothing, c.mixup, c.cutmix, seed)

    def loss(self, model: CoarseToFineViT, batch: Any) -> Tensor:
        """Of one batch of `batches`."""
        return token_labelling_loss(model, *batch) if self.config.token_labels else two_pass_loss(model, *batch)

    def undivided(self) -> str:
        return "MixToken exchanges patches between all images of a batch" if self.config.token_labels else ""

    @classmethod
    def published_counts(cls) -> list[PublishedCount]:
        from methods.cf_vit.counts import recompute

        return recompute()

    @classmethod
    def deployments(cls) -> list[Deployment]:
        return deployments()


def record_regions(model: CoarseToFineViT, ctx: Context) -> None:
    """Accuracy on validation images with both passes, when other regions than the important ones are refined."""
    for regions in ("top", "random", "lowest", "all"):
        model.regions = regions
        ctx.record(f"{regions}_regions_top1", quality.top1(model, ctx.held_out))
    model.regions = "top"
