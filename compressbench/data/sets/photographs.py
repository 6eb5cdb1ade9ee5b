"""The photographs that the wheels of scikit-image and scikit-learn ship, for super-resolution."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from compressbench.data.datasets import RAW, Dataset, DatasetInfo
from compressbench.data.files import wheel_folder
from compressbench.data.super_resolution import (
    ImagePair,
    SuperResolutionData,
    as_float,
    centre_crop,
    make_pair,
    read_image,
)
from compressbench.errors import UserError

PHOTOGRAPHS = DatasetInfo("photographs", "super_resolution", 3, 128, 0, *RAW, images=10, memory_mb=200)
# Split by scene: the two motorcycle pictures are a stereo pair and must not face each other across the split.
TRAIN_PHOTOGRAPHS = (
    "astronaut.png",
    "coffee.png",
    "flower.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
)
TEST_PHOTOGRAPHS = ("chelsea.png", "china.jpg", "hubble_deep_field.jpg", "rocket.jpg")
_TEST_SIDE = 256
_TRAIN_SIDE = 640  # bounds memory; only the retina and the motorcycles are larger


def load(folder: Path, limit: int | None, upscaling: int) -> SuperResolutionData:
    """Seven photographs to train on and the centres of four others to test on; `limit` cuts the training ones."""
    folder = folder / "photographs"

    def pairs(files: Sequence[str], side: int) -> list[ImagePair]:
        images = {Path(file).stem: centre_crop(read_image(folder / file), side) for file in files}
        return [as_float(make_pair(name, image, upscaling)) for name, image in images.items()]

    train, test = pairs(TRAIN_PHOTOGRAPHS[:limit], _TRAIN_SIDE), pairs(TEST_PHOTOGRAPHS, _TEST_SIDE)
    return SuperResolutionData(PHOTOGRAPHS, upscaling, train, test)


def fetch(folder: Path) -> None:
    """The files as scikit-image and scikit-learn ship them."""
    sources = (wheel_folder("skimage", "data"), wheel_folder("sklearn", "datasets", "images"))
    for name in TRAIN_PHOTOGRAPHS + TEST_PHOTOGRAPHS:
        found = next((source / name for source in sources if (source / name).is_file()), None)
        if found is None:
            raise UserError(f"{name} is in neither {sources[0]} nor {sources[1]}; install the pinned versions.")
        shutil.copyfile(found, folder / name)


DATASETS = (Dataset(PHOTOGRAPHS, load, fetch),)
