"""Bicubic upscaling in the place of a network: the lower bound of every super-resolution table."""

from torch import Tensor

from compressbench.data.imresize import upscale_bicubic
from compressbench.models.structure import SuperResolver


class Bicubic(SuperResolver):
    """Cubic convolution with a = -0.5, clipped and rounded to whole grey levels. No parameters."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.upscaling = scale

    def features(self, low: Tensor) -> Tensor:
        """The image itself."""
        return low

    def reconstruct(self, features: Tensor) -> Tensor:
        """RGB 0..255 [N, 3, h, w] -> [N, 3, upscaling h, upscaling w]."""
        return upscale_bicubic(features, self.upscaling)


ARCHITECTURES = {"bicubic": Bicubic}
