"""A vision transformer trained on labels: on all fine patches, or on the coarse ones only."""

from pydantic import Field
from torch.nn import functional as F

from compressbench.config import MethodConfig
from compressbench.data.mixing import MixedBatches
from compressbench.errors import UserError
from compressbench.method import Context, Method
from compressbench.models import ModelSpec, Network
from compressbench.seeding import derive_seed
from compressbench.training import adamw


class PlainViT(Method):
    """The pair's transformer, trained from random weights for the whole budget."""

    class Config(MethodConfig):
        """The resolution, and DeiT's mixing."""

        shrink: int = Field(1, ge=1, description="divides the side of the image: 2 leaves a quarter of the patches")
        mixup: float = Field(0.8, ge=0, description="Beta parameter of mixup, 0 for off")
        cutmix: float = Field(1.0, ge=0, description="Beta parameter of CutMix, 0 for off")

    config: Config

    def check(self, network: Network) -> None:
        self._check(network.spec)

    @staticmethod
    def _check(spec: ModelSpec) -> None:
        if spec.architecture != "vit":
            raise UserError(f"vit needs the architecture vit, not {spec.architecture}; choose another pair.")

    def compress(self, ctx: Context) -> Network:
        recipe, c = ctx.recipes.scratch, self.config
        self._check(ctx.spec)
        model = ctx.build(ModelSpec("vit", ctx.spec.arguments | {"shrink": c.shrink}))
        seed = derive_seed(ctx.seed, "mixing")
        return ctx.fit(
            model,
            recipe,
            loss=lambda network, batch: F.cross_entropy(network(batch[0]), batch[1]),
            batches=MixedBatches(
                ctx.batches(recipe), ctx.info.classes, recipe.label_smoothing, c.mixup, c.cutmix, seed
            ),
            optimizers=[adamw(recipe, model)],
        )
