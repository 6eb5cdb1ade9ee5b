"""Bicubic upscaling: no network, nothing trained."""

from compressbench import models
from compressbench.method import Context, Method
from compressbench.models import Network


class Bicubic(Method):
    """The architecture `bicubic` with the upscaling factor of the data."""

    def compress(self, ctx: Context) -> Network:
        return models.build("bicubic", scale=ctx.data.upscaling)
