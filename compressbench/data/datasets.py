"""Description of a data set: class counts, input sizes, normalisation, loader and source."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from compressbench import plugins
from compressbench.data.preprocessing import Preprocessing
from compressbench.errors import UserError


@dataclass(frozen=True)
class DatasetInfo:
    """What models, recipes and reports need of a data set without loading it."""

    name: str
    task: Literal["classification", "super_resolution", "class_incremental", "fidelity"]
    channels: int
    size: int  # side of the (square) network input; super-resolution: side of the low-resolution evaluation image
    classes: int  # 0 for super-resolution
    mean: tuple[float, ...]  # of the pixels scaled to [0, 1]; super-resolution networks take 0..255 as it is: 0 and 1
    std: tuple[float, ...]
    source: str = ""  # the data set whose files it reads, where that has another name
    images: int = (
        1_000_000  # for training; what a job asks a scheduler for is estimated from these two, as nothing else is
    )
    memory_mb: int | None = None  # to read and hold it, at its peak; None: read from files, batch by batch

    @property
    def folder(self) -> str:
        """The folder of its files below data/, where they are small enough to be pinned."""
        return self.source or self.name.removesuffix("_sessions")

    def adapted(self, how: Preprocessing) -> "DatasetInfo":
        """The same images in another size or normalisation."""
        return replace(self, size=how.size, mean=how.mean, std=how.std)

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
class Brought:
    """What users bring: nothing of it is pinned.

    place: its folder below COMPRESSBENCH_DATA (default: data/external).
    check: UserError, with a remedy, where that folder does not have what it must; looks at no file's content.
    hash: what stands for the data: names and sizes, also a sample of the content, or also all of it.
    """

    place: str
    check: Callable[[Path], None]
    hash: Literal["names", "sample", "all"] = "sample"


def wants(name: str, *parts: str) -> Callable[[Path], None]:
    """The check that a folder has these files and folders."""

    def check(folder: Path) -> None:
        if missing := [part for part in parts if not (folder / part).exists()]:
            raise UserError(
                f"{name} wants {', '.join(parts)} in {folder}, where {missing[0]} is missing; put it there or set "
                "COMPRESSBENCH_DATA."
            )

    return check


@dataclass(frozen=True)
class Dataset:
    """A data set: a module of `compressbench/data/sets` lists its own in `DATASETS`.

    load: (data/, how many training images at most) -> what its task reads; super-resolution also takes `upscaling`,
        class-incremental learning `seed`. UserError, with a remedy, where files are missing or damaged.
    fetch: fills a new folder from the public source, to be pinned; None where users bring the files.
    protocol: how the classes come in sessions, class-incremental learning only.
    brought: where users bring the files, and how to see that they are there.
    download: brings into COMPRESSBENCH_DATA (default: data/external) what is missing there, where its files can be had by
        anybody and check themselves; `hash` stands for them.
    beside: a labelled data set of the same classes, for images without labels: where it is there, accuracy on it is measured.
    of_files: `load` also takes `preprocessing` and `loader`, and reads image by image.
    """

    info: DatasetInfo
    load: Callable[..., Any]
    fetch: Callable[[Path], None] | None = None
    protocol: Protocol | None = None
    brought: Brought | None = None
    download: Callable[[Path], None] | None = None
    hash: str | None = None
    beside: str | None = None
    of_files: bool = False


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
