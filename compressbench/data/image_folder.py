"""Folders of images in ImageNet's layout: train/CLASS/* and val/CLASS/*, of any size, as a data set."""

import hashlib
import os
from functools import partial
from pathlib import Path

from compressbench.config import ImageFolder
from compressbench.data.classification import ClassificationData
from compressbench.data.datasets import Brought, Dataset, DatasetInfo
from compressbench.data.files import external_folder
from compressbench.data.folder_split import FolderSplit
from compressbench.data.loader import HERE, Loader
from compressbench.data.preprocessing import Preprocessing
from compressbench.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def dataset(name: str, form: ImageFolder, folder: Path) -> Dataset:
    """The data set that a configuration describes; 0 classes while its folder is not there yet. `folder` is data/."""
    classes, train = form.classes, external_folder(folder) / form.path / "train"
    if classes is None:
        classes = len(folders(train)) if train.is_dir() else 0
    about = DatasetInfo(name, "classification", 3, form.size, classes, form.mean, form.std)
    brought = Brought(form.path, partial(check, name, form), form.hash)
    return Dataset(about, partial(load, about, form), brought=brought, of_files=True)


def check(name: str, form: ImageFolder, folder: Path) -> None:
    """UserError where `folder` is not in the layout; looks at the folders alone, not at the files."""
    train, val = ((folders(folder / part) if (folder / part).is_dir() else []) for part in ("train", "val"))
    if not train or not val:
        raise UserError(
            f"{name} wants images in {folder}/train/CLASS/ and {folder}/val/CLASS/; put them there, correct the path, or set "
            "COMPRESSBENCH_DATA."
        )
    if unknown := sorted(set(val) - set(train)):
        raise UserError(
            f"{folder}/val has the class {unknown[0]}, which {folder}/train does not have; make them agree."
        )
    if form.classes is not None and len(train) > form.classes:
        raise UserError(
            f"{folder}/train has {len(train)} classes, more than the {form.classes} of {name}; correct either."
        )


def folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones do not count."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def load(
    about: DatasetInfo,
    form: ImageFolder,
    folder: Path,
    limit: int | None,
    preprocessing: Preprocessing | None = None,
    loader: Loader = HERE,
) -> ClassificationData:
    """The three splits, without reading an image. `folder` is data/.

    Each is in an order of its own, by the hashes of the names: its first images are a sample of all classes. Those for
    validation are the last of the training images; `limit` cuts what is left to train on.
    """
    place = external_folder(folder) / form.path
    check(about.name, form, place)
    classes = {label: i for i, label in enumerate(folders(place / "train"))}
    resize = form.resize or round(form.size * 256 / 224)
    how = preprocessing or Preprocessing(form.size, resize, form.mean, form.std, form.interpolation)
    train, test = (_split(place / part, classes, how, loader) for part in ("train", "val"))
    cut = len(train) - min(form.validation, len(train) // 10)
    kept = cut if limit is None else min(limit, cut)
    return ClassificationData(about.adapted(how), train.take(slice(kept)), train.take(slice(cut, None)), test)


def _split(folder: Path, classes: dict[str, int], how: Preprocessing, loader: Loader) -> FolderSplit:
    found = [(name, label) for own, label in classes.items() for name in image_files(folder, own)]
    if not found:
        raise UserError(f"{folder} has no image in the folder of any class ({', '.join(SUFFIXES)}); put some there.")
    return FolderSplit.of(folder, sorted(found, key=lambda file: _hash(file[0])), how, loader)


def _hash(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=8).digest()


def image_files(folder: Path, below: str) -> list[str]:
    """The image files below a folder of `folder`, relative to `folder`, by name; none where it is missing."""
    found = []
    for path, _, files in os.walk(folder / below, followlinks=True):
        relative = os.path.relpath(path, folder)
        found += [f"{relative}/{f}" for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
    return sorted(found)
