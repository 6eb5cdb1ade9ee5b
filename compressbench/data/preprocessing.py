"""How an image of any size becomes the input of a network."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """The shorter side is resized, the centre is cut out, and the pixels, scaled to [0, 1], are normalised.

    size: side of the square input. resize: pixels of the shorter side before the crop. mean, std: per channel.
    """

    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True

    @property
    def is_raw(self) -> bool:
        """Whether a network takes the pixels as they are, of 0..255: super-resolution does."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> the pixels of [0, 1] that they were, or of 0..255 where they are raw."""
        if self.is_raw:
            return images
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return images * std + mean
