"""Data sets as tensors: `info` tells what one is, `load` reads it, the batch classes serve the training loop."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from compressbench.data.classification import (
    Augmentation,
    ClassificationBatches,
    ClassificationData,
    Split,
    load_cifar,
    load_digits,
    load_fashion_mnist,
    load_imagenet,
)
from compressbench.data.datasets import DATASETS, DatasetInfo, info
from compressbench.data.super_resolution import Pair, PatchBatches, SuperResolutionData, load_div2k, load_photographs

__all__ = [
    "DATASETS",
    "Augmentation",
    "ClassificationBatches",
    "ClassificationData",
    "DatasetInfo",
    "Pair",
    "PatchBatches",
    "Split",
    "SuperResolutionData",
    "info",
    "load",
]

_LOADERS: dict[str, Callable[..., ClassificationData | SuperResolutionData]] = {
    "digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": partial(load_cifar, "cifar10"),
    "cifar100": partial(load_cifar, "cifar100"),
    "imagenet": load_imagenet,
    "photographs": load_photographs,
    "div2k": load_div2k,
}


def load(name: str, folder: Path, limit: int | None = None, scale: int = 2) -> ClassificationData | SuperResolutionData:
    """Reads one data set below `folder` (data/); `limit` cuts the training images, `scale` is for super-resolution."""
    if info(name).task == "super_resolution":
        return _LOADERS[name](Path(folder), limit, scale)
    return _LOADERS[name](Path(folder), limit)
