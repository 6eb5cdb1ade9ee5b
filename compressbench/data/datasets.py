"""Description of a data set: class counts, input sizes, normalisation, loader and source."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compressbench import plugins


@dataclass(frozen=True)
class DatasetInfo:
    """What models, recipes and reports need of a data set without loading it."""

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


@dataclass(frozen=True)
class Protocol:
    """How the classes of a data set come in sessions.

    session_len: classes of each session, the base first. shots: training images of each later class.
    draws: how often the shots are drawn anew, from the same base. shuffled: the order of the classes depends on the seed.
    few_shot: published positions in the training images, a row per later session, in place of draws.
    crop_padding: pixels that the crops of the base session pad with; default: an eighth of the image.
    """

    session_len: tuple[int, ...]
    shots: int = 5
    draws: int = 1
    shuffled: bool = True
    few_shot: tuple[tuple[int, ...], ...] | None = None
    crop_padding: int | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set: a module of `compressbench/data/sets` lists its own in `DATASETS`.

    load: (data/, how many training images at most) -> what its task reads; super-resolution also takes `upscaling`,
        class-incremental learning `seed`. UserError, with a remedy, where files are missing or damaged.
    fetch: fills a new folder from the public source; None where users bring the files.
    protocol: how the classes come in sessions, class-incremental learning only.
    """

    info: DatasetInfo
    load: Callable[..., Any]
    fetch: Callable[[Path], None] | None = None
    protocol: Protocol | None = None


RGB_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation
RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

DATASETS: dict[str, Dataset] = {}
"""Those of the suite, by name; filled by importing `compressbench.data`."""


def register(module: Any) -> None:
    """Add the data sets that a module lists in `DATASETS`."""
    DATASETS.update({entry.info.name: entry for entry in module.DATASETS})


def find(name: str) -> Dataset:
    """A data set of the suite, of an installed package, or `package.module:attribute`."""
    return plugins.find("data set", name, DATASETS, Dataset)


def info(name: str) -> DatasetInfo:
    """What is known of one data set without loading it."""
    return find(name).info


def fetchable() -> tuple[str, ...]:
    """What `compressbench data` brings into data/. Users brought everything else: no message may advise to delete it."""
    return tuple(sorted(name for name, entry in DATASETS.items() if entry.fetch))


def remedy(path: Path) -> str:
    """What helps when a file of a data set is missing or damaged."""
    folder = path.parent
    if folder.name in fetchable():
        return f"delete the folder {folder} and run `compressbench data`, which fetches it again"
    return "put a whole copy in its place; the suite cannot fetch this data set"
