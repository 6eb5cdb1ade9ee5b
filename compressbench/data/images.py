"""Image files as 8-bit RGB, whatever they hold: values are rescaled, never cut off; what would lose something is refused."""

from pathlib import Path
from typing import Any

import numpy as np

from compressbench.errors import UserError

# What Pillow converts as it should: bilevel, grey, palette, RGB, JPEG's YCbCr, and CMYK by (255 - C)(255 - K) / 255.
_SHALLOW = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK")
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_DEEP_COLOUR = (";16B", ";16L", ";16N")  # how the decoder calls it; the image then has a mode of 8 bits


def read_rgb(path: Path, reduce: bool = False) -> np.ndarray:
    """Uint8 [H, W, 3] of an image file; grey is replicated, 16-bit grey v becomes round(v / 257).

    What 8-bit RGB cannot hold is transparency, and 16-bit colour, of which Pillow keeps the upper byte alone. With `reduce` it
    is left out, as torchvision's loader does; without, it is a UserError that says what to do. OSError, SyntaxError or
    ValueError, as Pillow has them, for a file that is missing or damaged.
    """
    from PIL import Image

    with Image.open(path) as image:
        if image.mode in _DEEP_GREY and (reduce or not image.has_transparency_data):
            grey = np.asarray(image).astype(np.uint32)
            return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
        if image.mode not in _SHALLOW or (not reduce and _is_deep_colour(image)):
            raise UserError(f"{path} is neither 16-bit grey nor an image of at most 8 bits; convert it to 8-bit RGB.")
        if not reduce and image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise UserError(f"{path} has transparent pixels; flatten it onto a background.")
        return np.array(image.convert("RGB"))


def _is_deep_colour(image: Any) -> bool:
    return any(name.endswith(_DEEP_COLOUR) for tile in image.tile for name in _names(tile.args))


def _names(arguments: object) -> tuple[str, ...]:
    """The strings among a decoder's arguments, which are a tuple or a single one."""
    every = arguments if isinstance(arguments, tuple) else (arguments,)
    return tuple(argument for argument in every if isinstance(argument, str))
