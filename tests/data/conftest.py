"""Data that several tests look at."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressbench import data
from compressbench.data import SuperResolutionData

FOLDER_CLASSES, TRAIN_IMAGES, VAL_IMAGES = 3, 8, 2  # of every class


@pytest.fixture(scope="module")
def photographs(data_root: Path) -> SuperResolutionData:
    return data.load("photographs", data_root / "data")  # type: ignore[return-value]


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in ImageNet's layout: JPEGs of noise, each of a size of its own."""
    folder, rng = tmp_path_factory.mktemp("external") / "birds", np.random.default_rng(0)
    for part, count in (("train", TRAIN_IMAGES), ("val", VAL_IMAGES)):
        for label in range(FOLDER_CLASSES):
            (folder / part / f"bird{label}").mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (*rng.integers(20, 60, 2), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / f"bird{label}" / f"{label}_{number}.JPEG")
    return folder
