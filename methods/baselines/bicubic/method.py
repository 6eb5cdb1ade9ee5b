"""Bicubic enlargement: no network, nothing trained."""

from torch import nn

from compressbench import models
from compressbench.method import Context, Method


class Bicubic(Method):
    """The architecture `bicubic` at the scale of the data."""

    def compress(self, ctx: Context) -> nn.Module:
        return models.build("bicubic", scale=ctx.data.scale)
