"""Networks of several budgets, each trained on its own: what one set of weights for all of them has to be compared with."""

from typing import TYPE_CHECKING

from pydantic import Field
from torch import nn

from compressbench.compression.supernet import SupernetConfig, decayed, prepare, switchable
from compressbench.method import Method
from compressbench.models.subnets import Layout

if TYPE_CHECKING:
    from compressbench.stages.context import Context


class SeparateSubnetsConfig(SupernetConfig):
    """The budgets."""

    targets: tuple[int, ...] | None = Field(None, description="of the constraints; default: all that have a structure")


class SeparateSubnets(Method):
    """The structures that `uniform_subnets` deploys with the same seed, the smallest and the largest network, one by one."""

    Config = SeparateSubnetsConfig
    config: SeparateSubnetsConfig

    def check(self, network: nn.Module) -> None:
        Layout(network)

    def compress(self, ctx: "Context") -> nn.Module:
        supernet, targets = prepare(ctx, self.config), self.config.targets
        chosen = {b: s for b, s in supernet.by_lot().items() if targets is None or b.target in targets}
        model = switchable(ctx, supernet.points(chosen), "separate_subnets").to(ctx.device)
        recipe = ctx.recipes.scratch
        for point in model.points:
            network = model.at(point)
            optimizer = ctx.optimizer(recipe, decayed(network, recipe.weight_decay))
            ctx.fit(network, recipe, name=point, optimizers=[optimizer])
            ctx.recalibrate(network, self.config.recalibration_batches)
        return model
