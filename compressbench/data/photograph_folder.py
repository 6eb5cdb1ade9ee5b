"""A small folder in ImageNet's layout, cut from photographs: to rehearse what reads ImageNet.

A class is a half of a photograph of scikit-image or scikit-learn. Its images are random windows of many sizes, saved as JPEG;
as in ImageNet, some are grey and some CMYK. The windows depend on nothing but the class and their number.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from compressbench.data.images import read_rgb
from compressbench.data.sets.photographs import TEST_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS, fetch
from compressbench.files import make_folder
from compressbench.seeding import derive_seed

PHOTOGRAPHS = sorted({*TRAIN_PHOTOGRAPHS, *TEST_PHOTOGRAPHS} - {"motorcycle_right.png"})  # the other eye's view
CLASSES = 2 * len(PHOTOGRAPHS)
IMAGES = {"train": 8, "val": 2}  # of every class
SIDES = (160, 640)  # of a window, in pixels after a change of scale by at most two
GREY_EVERY, CMYK_EVERY = 7, 11


def write(folder: Path) -> int:
    """Fills folder/train and folder/val; returns the number of images. The folder is there when all of them are."""
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".photographs-") as scratch:
        sources, made = Path(scratch, "sources"), Path(scratch, "made")
        sources.mkdir()
        fetch(sources)
        for name in PHOTOGRAPHS:
            _write_photograph(read_rgb(sources / name), Path(name).stem, made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return CLASSES * sum(IMAGES.values())


def _write_photograph(pixels: np.ndarray, name: str, folder: Path) -> None:
    middle = pixels.shape[1] // 2
    for label, half in ((f"{name}_left", pixels[:, :middle]), (f"{name}_right", pixels[:, middle:])):
        for part, count in IMAGES.items():
            make_folder(folder / part / label)
            for number in range(count):
                image = window(half, np.random.default_rng(derive_seed("photographs", label, part, number)))
                _as_in_imagenet(image, number).save(folder / part / label / f"{label}_{number:03}.JPEG", quality=90)


def window(pixels: np.ndarray, rng: np.random.Generator) -> Any:
    """A Pillow image: half of the height and width of [H, W, 3] at least, in a size of its own."""
    from PIL import Image

    height, width = (int(side * rng.uniform(0.5, 1)) for side in pixels.shape[:2])
    top, left = (int(rng.integers(full - part + 1)) for full, part in zip(pixels.shape, (height, width), strict=False))
    scale = rng.uniform(0.5, 2)
    size = [int(np.clip(side * scale, *SIDES)) for side in (width, height)]
    return Image.fromarray(pixels[top : top + height, left : left + width]).resize(size, Image.Resampling.BICUBIC)


def _as_in_imagenet(image: Any, number: int) -> Any:
    if number % GREY_EVERY == GREY_EVERY - 1:
        return image.convert("L")
    return image.convert("CMYK") if number % CMYK_EVERY == CMYK_EVERY - 1 else image
