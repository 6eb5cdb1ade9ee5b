"""How an image of any size becomes the input of a network."""

from dataclasses import dataclass
from typing import Literal


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
