"""A small folder in ImageNet's layout, cut from photographs: to rehearse what reads ImageNet.

A class is a half of a photograph of scikit-image or scikit-learn. Its images are random windows of many sizes, saved as JPEG;
as in ImageNet, some are grey and some CMYK. The windows depend on nothing but the class and their number.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compressbench.data.images import read_rgb
from compressbench.data.sets.photographs import TEST_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS, fetch
from compressbench.files import make_folder
from compressbench.seeding import derive_seed

PHOTOGRAPHS = sorted({*TRAIN_PHOTOGRAPHS, *TEST_PHOTOGRAPHS} - {"motorcycle_right.png"})  # the other eye's view
HALVES = 2 * len(PHOTOGRAPHS)
SIDES = (160, 640)  # of a window, in pixels after a change of scale by at most two
GREY_EVERY, CMYK_EVERY = 7, 8


def write(folder: Path, classes: int = HALVES, train: int = 8, val: int = 2) -> int:
    """Fills folder/train and folder/val with so many images of a class; returns how many. The folder is there when all are.

    With more classes than there are halves, several show the same half through windows of their own, and train alone has
    them: what is tried is the training.
    """
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".photographs-") as scratch:
        sources, made = Path(scratch, "sources"), Path(scratch, "made")
        sources.mkdir()
        fetch(sources)
        for number, (label, half) in enumerate(itertools.islice(_halves(sources), classes)):
            _write_class(half, label, made / "train" / label, train)
            if number < HALVES:
                _write_class(half, label, made / "val" / label, val)
        made.rename(folder)
    return classes * train + min(classes, HALVES) * val


def _halves(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The name and the pixels of a class, without end."""
    photographs = {Path(name).stem: read_rgb(folder / name) for name in PHOTOGRAPHS}
    for again in itertools.count():
        for name, pixels in photographs.items():
            middle = pixels.shape[1] // 2
            suffix = f"_{again}" if again else ""
            yield f"{name}_left{suffix}", pixels[:, :middle]
            yield f"{name}_right{suffix}", pixels[:, middle:]


def _write_class(half: np.ndarray, label: str, folder: Path, count: int) -> None:
    make_folder(folder)
    for number in range(count):
        rng = np.random.default_rng(derive_seed("photographs", label, folder.parent.name, number))
        _as_in_imagenet(window(half, rng), number).save(folder / f"{label}_{number:03}.JPEG", quality=90)


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
