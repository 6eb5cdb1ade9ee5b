"""What each data set is: the one place of class counts, input sizes and normalisation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressbench.errors import UserError


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a data set that models, recipes and reports need without loading it."""

    name: str
    task: Literal["classification", "super_resolution", "class_incremental"]
    channels: int
    size: int  # side of the (square) network input; super-resolution: side of the low-resolution evaluation image
    classes: int  # 0 for super-resolution
    mean: tuple[float, ...]  # of the pixels scaled to [0, 1]; super-resolution networks take 0..255 as it is: 0 and 1
    std: tuple[float, ...]

    @property
    def folder(self) -> str:
        """The folder of its files below data/, where they are small enough to be pinned."""
        return self.name.removesuffix("_sessions")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of a network's input."""
        return (self.channels, self.size, self.size)


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

DATASETS = {
    entry.name: entry
    for entry in (
        DatasetInfo("digits", "classification", 1, 16, 10, (0.3063,), (0.3183,)),
        DatasetInfo("fashion_mnist", "classification", 1, 28, 10, (0.2860,), (0.3530,)),
        DatasetInfo("cifar10", "classification", 3, 32, 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        DatasetInfo("cifar100", "classification", 3, 32, 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2556, 0.2761)),
        DatasetInfo("imagenet", "classification", 3, 224, 1000, *_IMAGENET),
        DatasetInfo("digits_sessions", "class_incremental", 1, 16, 10, (0.3063,), (0.3183,)),
        DatasetInfo("fashion_mnist_sessions", "class_incremental", 1, 28, 10, (0.2860,), (0.3530,)),
        DatasetInfo("cifar100_sessions", "class_incremental", 3, 32, 100, *_IMAGENET),
        DatasetInfo("cub200_sessions", "class_incremental", 3, 224, 200, *_IMAGENET),
        DatasetInfo("photographs", "super_resolution", 3, 128, 0, **_RAW),
        DatasetInfo("div2k", "super_resolution", 3, 128, 0, **_RAW),
    )
}


# What `compressbench data` brings into data/. Everything else was brought by the user: no message may advise to delete it.
FETCHED = ("digits", "fashion_mnist", "photographs")


def remedy(path: Path) -> str:
    """What helps when a file of a data set is missing or damaged."""
    folder = path.parent
    if folder.name in FETCHED:
        return f"delete the folder {folder} and run `compressbench data`, which fetches it again"
    return "put a whole copy in its place; the suite cannot fetch this data set"


def info(name: str) -> DatasetInfo:
    """The facts about one data set."""
    if name not in DATASETS:
        raise UserError(f"there is no data set '{name}'; choose one of {', '.join(sorted(DATASETS))}.")
    return DATASETS[name]
