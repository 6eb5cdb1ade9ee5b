"""ImageNet (ILSVRC 2012): 1,000 classes, 1.28 million training images of any size."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from compressbench.config import ImageFolder
from compressbench.data import image_folder
from compressbench.data.classification import ClassificationData
from compressbench.data.datasets import Brought
from compressbench.data.files import external_folder
from compressbench.errors import UserError

CLASSES = 1000
FORM = ImageFolder.model_validate({"kind": "image_folder", "path": "imagenet", "classes": CLASSES})


def check(folder: Path) -> None:
    """In the layout, and with every class: were one missing, the labels of those behind it would be others."""
    image_folder.check("imagenet", FORM, folder)
    if (found := len(image_folder.folders(folder / "train"))) != CLASSES:
        raise UserError(f"{folder}/train has {found} of ImageNet's {CLASSES} classes; put all of them there.")


FOLDER = image_folder.dataset("imagenet", FORM, Path("data"))


def load(folder: Path, limit: int | None, **options: Any) -> ClassificationData:
    """As any folder of images. Training holds out 5,000 images; the official validation images are the test images."""
    check(external_folder(folder) / FORM.path)
    loaded: ClassificationData = FOLDER.load(folder, limit, **options)
    return loaded


DATASETS = (replace(FOLDER, load=load, brought=Brought(FORM.path, check, FORM.hash)),)
