"""Windows of the photographs that the wheels of scikit-image and scikit-learn ship, without labels, for ImageNet networks."""

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressbench.data.classification import ClassificationData, Split
from compressbench.data.datasets import RGB_IMAGENET, Dataset, DatasetInfo
from compressbench.data.preprocessing import Preprocessing
from compressbench.data.sets.photographs import PHOTOGRAPHS, TEST_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS
from compressbench.data.super_resolution import read_image
from compressbench.data.transforms import centre, normalise
from compressbench.seeding import generator

IMAGENET = Preprocessing(224, 256, *RGB_IMAGENET)
UNLABELLED = -1
WINDOWS = 24  # of every photograph
PHOTOGRAPH_CROPS = DatasetInfo(
    "photograph_crops",
    "fidelity",
    3,
    224,
    1000,
    *RGB_IMAGENET,
    source=PHOTOGRAPHS.name,
    images=WINDOWS * len(TRAIN_PHOTOGRAPHS),
    memory_mb=400,
)
SMALLEST = 0.4  # side of a window, as a share of the photograph's shorter side


def load(
    folder: Path, limit: int | None, preprocessing: Preprocessing | None = None, **reading: Any
) -> ClassificationData:
    """Windows of seven photographs for calibration (`limit` cuts them) and of four others to test on. None has a label."""
    folder, how = folder / PHOTOGRAPHS.folder, preprocessing or IMAGENET
    train = _split(folder, TRAIN_PHOTOGRAPHS, how, limit)
    about, nothing = PHOTOGRAPH_CROPS.adapted(how), train.take(slice(0))
    return ClassificationData(about, train, nothing, _split(folder, TEST_PHOTOGRAPHS, how))


def windows(image: Tensor, name: str) -> list[Tensor]:
    """The photograph [C, H, W] itself, and WINDOWS - 1 square windows: where and how large its name says."""
    height, width = image.shape[-2:]
    shares, down, right = torch.rand(3, WINDOWS - 1, generator=generator("windows", name)).tolist()
    found = [image]
    for share, y, x in zip(shares, down, right, strict=True):
        side = round((SMALLEST + (1 - SMALLEST) * share) * min(height, width))
        top, left = round(y * (height - side)), round(x * (width - side))
        found.append(image[:, top : top + side, left : left + side])
    return found


def _split(folder: Path, files: Sequence[str], how: Preprocessing, limit: int | None = None) -> Split:
    """One window of every photograph, then the next one."""
    of_each = [windows(read_image(folder / file), Path(file).stem) for file in files]
    chosen = islice(chain.from_iterable(zip(*of_each, strict=True)), limit)
    images = normalise([centre(part, how) for part in chosen], how)
    return Split(images, torch.full((len(images),), UNLABELLED))


DATASETS = (Dataset(PHOTOGRAPH_CROPS, load, beside="imagenet", of_files=True),)
