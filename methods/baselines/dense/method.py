"""The unmodified network: the reference of every table."""

from typing import Literal

from pydantic import Field

from compressbench.config import MethodConfig
from compressbench.method import Context, Method
from compressbench.models import Network


class Dense(Method):
    """The shared dense model as it is, or a network trained for the whole budget that compressed ones get."""

    class Config(MethodConfig):
        """Which of the two."""

        source: Literal["checkpoint", "full_budget"] = Field(
            "checkpoint", description="the shared pretrained model, or training from random weights for recipes.scratch"
        )

    config: Config

    def compress(self, ctx: Context) -> Network:
        if self.config.source == "checkpoint":
            return ctx.dense()
        return ctx.fit(ctx.build(), ctx.recipes.scratch)
