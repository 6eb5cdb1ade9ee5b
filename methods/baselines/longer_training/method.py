"""The network trained alone, with as much computation as a method that trains several networks jointly."""

from pydantic import Field

from compressbench.config import MethodConfig, Recipe
from compressbench.method import Context, Method
from compressbench.models import Network


class LongerTraining(Method):
    """Training on labels with the recipe's schedule stretched over more epochs."""

    class Config(MethodConfig):
        """How much longer."""

        factor: float = Field(4.5, ge=1, description="multiplies the epochs, and the milestones of the learning rate")

    config: Config

    def compress(self, ctx: Context) -> Network:
        return ctx.fit(ctx.build(), stretched(ctx.recipes.scratch, self.config.factor))


def stretched(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with `factor` times its epochs, and everything counted in epochs stretched by the same factor."""
    return recipe.model_copy(
        update={
            "epochs": round(factor * recipe.epochs),
            "warmup_epochs": factor * recipe.warmup_epochs,
            "milestones": tuple(round(factor * epoch) for epoch in recipe.milestones),
            "halve_every": recipe.halve_every and round(factor * recipe.halve_every),
        }
    )
