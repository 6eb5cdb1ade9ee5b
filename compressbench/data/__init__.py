"""Data sets as tensors: `info` tells what one is, `load` reads it, the batch classes serve the training loop."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from compressbench.config import ImageFolder
from compressbench.data import datasets, image_folder, sets
from compressbench.data.classification import (
    AnySplit,
    Augmentation,
    ClassificationBatches,
    ClassificationData,
    Split,
    renormalised,
)
from compressbench.data.datasets import DATASETS, Dataset, DatasetInfo, Protocol, info, register
from compressbench.data.files import external_folder
from compressbench.data.folder_split import FolderBatches, FolderSplit
from compressbench.data.incremental import ClassIncrementalData
from compressbench.data.loader import HERE, Loader
from compressbench.data.preprocessing import Preprocessing
from compressbench.data.super_resolution import ImagePair, PatchBatches, SuperResolutionData
from compressbench.data.synthetic import SyntheticImages

__all__ = [
    "DATASETS",
    "AnySplit",
    "Augmentation",
    "ClassIncrementalData",
    "ClassificationBatches",
    "ClassificationData",
    "Dataset",
    "DatasetInfo",
    "FolderBatches",
    "FolderSplit",
    "ImagePair",
    "Loader",
    "PatchBatches",
    "Preprocessing",
    "Protocol",
    "Split",
    "SuperResolutionData",
    "SyntheticImages",
    "check",
    "find",
    "info",
    "load",
    "protocol",
]

Data = ClassificationData | ClassIncrementalData | SuperResolutionData

for _module in pkgutil.iter_modules(sets.__path__):
    if not _module.name.startswith("_"):
        register(importlib.import_module(f"{sets.__name__}.{_module.name}"))


def protocol(name: str) -> Protocol:
    """How the classes of a class-incremental data set come in sessions."""
    if (found := datasets.find(name).protocol) is None:
        raise ValueError(f"{name} has no sessions")
    return found


def find(name: str, folder: Path = Path("data"), own: ImageFolder | None = None) -> Dataset:
    """The data set called `name`: the user's `own`, of the suite, of an installed package, or `package.module:attribute`."""
    return datasets.find(name) if own is None else image_folder.dataset(name, own, folder)


def check(name: str, folder: Path, own: ImageFolder | None = None) -> None:
    """UserError, with a remedy, where users have to bring the data set and it is not there. Cheap: reads no image."""
    found = find(name, folder, own)
    if found.brought is not None:
        found.brought.check(external_folder(folder) / found.brought.place)


def load(
    name: str,
    folder: Path,
    limit: int | None = None,
    upscaling: int = 2,
    seed: int = 0,
    *,
    own: ImageFolder | None = None,
    preprocessing: Preprocessing | None = None,
    loader: Loader = HERE,
) -> Data:
    """Reads one data set below `folder` (data/), or the user's `own`. `limit` cuts the training images.

    `upscaling` is for super-resolution; `seed` draws the class order and the shots of class-incremental sessions.
    `preprocessing` takes the place of the data set's own, and `loader` reads where that is image by image.
    """
    found, folder = find(name, folder, own), Path(folder)
    options: dict[str, Any] = {"super_resolution": {"upscaling": upscaling}, "class_incremental": {"seed": seed}}.get(
        found.info.task, {}
    )
    if found.of_files:
        options |= {"preprocessing": preprocessing, "loader": loader}
    loaded: Data = found.load(folder, limit, **options)
    return loaded if preprocessing is None or found.of_files else renormalised(loaded, preprocessing)
