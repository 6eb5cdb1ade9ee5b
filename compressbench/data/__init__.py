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
from compressbench.data.incremental import PROTOCOLS, ClassIncrementalData, load_sessions
from compressbench.data.super_resolution import Pair, PatchBatches, SuperResolutionData, load_div2k, load_photographs
from compressbench.data.synthetic import SyntheticImages

__all__ = [
    "DATASETS",
    "PROTOCOLS",
    "Augmentation",
    "ClassIncrementalData",
    "ClassificationBatches",
    "ClassificationData",
    "DatasetInfo",
    "Pair",
    "PatchBatches",
    "Split",
    "SuperResolutionData",
    "SyntheticImages",
    "info",
    "load",
]

Data = ClassificationData | ClassIncrementalData | SuperResolutionData

_LOADERS: dict[str, Callable[..., Data]] = {
    "digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": partial(load_cifar, "cifar10"),
    "cifar100": partial(load_cifar, "cifar100"),
    "imagenet": load_imagenet,
    "photographs": load_photographs,
    "div2k": load_div2k,
    **{name: partial(load_sessions, name) for name in PROTOCOLS},
}


def load(name: str, folder: Path, limit: int | None = None, scale: int = 2, seed: int = 0) -> Data:
    """Reads one data set below `folder` (data/). `limit` cuts the training images.

    `scale` is for super-resolution; `seed` draws the class order and the shots of class-incremental sessions.
    """
    task = info(name).task
    options = {"super_resolution": {"scale": scale}, "class_incremental": {"seed": seed}}.get(task, {})
    return _LOADERS[name](Path(folder), limit, **options)
