"""Bicubic enlargement: no network, nothing trained."""

from typing import TYPE_CHECKING

from torch import nn

from compressbench import models
from compressbench.method import Method

if TYPE_CHECKING:
    from compressbench.stages.context import Context


class Bicubic(Method):
    """The architecture `bicubic` at the scale of the data."""

    def compress(self, ctx: "Context") -> nn.Module:
        return models.build("bicubic", scale=ctx.data.scale)
