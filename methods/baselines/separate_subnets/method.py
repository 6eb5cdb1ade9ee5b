"""Networks of several budgets, each trained separately: the baseline of one set of weights for all of them."""

from pydantic import Field
from torch import nn

from compressbench.method import Context, Method
from compressbench.models import Network
from compressbench.models.subnets import Layout
from compressbench.supernet.config import SupernetConfig
from compressbench.supernet.training import budgeted, decayed, prepare


class SeparateSubnetsConfig(SupernetConfig):
    """The budgets."""

    targets: tuple[int, ...] | None = Field(None, description="of the constraints; default: all that have a structure")


class SeparateSubnets(Method):
    """The structures that `uniform_subnets` deploys with the same seed, the smallest and the largest network, one by one."""

    Config = SeparateSubnetsConfig
    config: SeparateSubnetsConfig

    def check(self, network: nn.Module) -> None:
        Layout(network)

    def compress(self, ctx: Context) -> Network:
        supernet, targets = prepare(ctx, self.config), self.config.targets
        chosen = {b: s for b, s in supernet.random_structures().items() if targets is None or b.target in targets}
        model = budgeted(ctx, supernet.points(chosen), "separate_subnets").to(ctx.device)
        recipe = ctx.recipes.scratch
        for point in model.points:
            network = model.at(point)
            optimizer = ctx.optimizer(recipe, decayed(network, recipe.weight_decay))
            ctx.fit(network, recipe, name=point, optimizers=[optimizer])
            ctx.recalibrate(network, self.config.recalibration_batches)
        return model
