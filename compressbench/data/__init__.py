"""Data sets as tensors: `info` tells what one is, `load` reads it, the batch classes serve the training loop."""

import importlib
import pkgutil
from pathlib import Path

from compressbench.data import sets
from compressbench.data.classification import Augmentation, ClassificationBatches, ClassificationData, Split
from compressbench.data.datasets import DATASETS, Dataset, DatasetInfo, Protocol, find, info, register
from compressbench.data.incremental import ClassIncrementalData
from compressbench.data.super_resolution import ImagePair, PatchBatches, SuperResolutionData
from compressbench.data.synthetic import SyntheticImages

__all__ = [
    "DATASETS",
    "Augmentation",
    "ClassIncrementalData",
    "ClassificationBatches",
    "ClassificationData",
    "Dataset",
    "DatasetInfo",
    "ImagePair",
    "PatchBatches",
    "Protocol",
    "Split",
    "SuperResolutionData",
    "SyntheticImages",
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
    if (found := find(name).protocol) is None:
        raise ValueError(f"{name} has no sessions")
    return found


def load(name: str, folder: Path, limit: int | None = None, upscaling: int = 2, seed: int = 0) -> Data:
    """Reads one data set below `folder` (data/). `limit` cuts the training images.

    `upscaling` is for super-resolution; `seed` draws the class order and the shots of class-incremental sessions.
    """
    found = find(name)
    options = {"super_resolution": {"upscaling": upscaling}, "class_incremental": {"seed": seed}}.get(
        found.info.task, {}
    )
    loaded: Data = found.load(Path(folder), limit, **options)
    return loaded
