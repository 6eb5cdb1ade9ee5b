"""CIFAR-10 and CIFAR-100, and the few-shot sessions of CIFAR-100 that Tao et al. (CVPR 2020) publish."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compressbench.data.classification import ClassificationData, divide
from compressbench.data.datasets import RGB_IMAGENET, Dataset, DatasetInfo, Protocol
from compressbench.data.files import external_folder
from compressbench.data.incremental import in_sessions_of
from compressbench.data.sets._cifar100_few_shot import CIFAR100_FEW_SHOT
from compressbench.errors import UserError
from compressbench.files import make_folder

CIFAR10 = DatasetInfo("cifar10", "classification", 3, 32, 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = DatasetInfo("cifar100", "classification", 3, 32, 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2556, 0.2761))
SESSIONS = DatasetInfo("cifar100_sessions", "class_incremental", 3, 32, 100, *RGB_IMAGENET)
PUBLISHED = Protocol((60, *(8 * (5,))), shuffled=False, few_shot=CIFAR100_FEW_SHOT, crop_padding=8)


def load(
    source: DatasetInfo, folder: Path, limit: int | None, about: DatasetInfo | None = None, validation: int = 5_000
) -> ClassificationData:
    """CIFAR-10 or CIFAR-100 in the layout of torchvision, which checks the files itself.

    `about` normalises otherwise than the data set's own info says.
    """
    folder, reader = external_folder(folder), _reader(source)
    try:
        train, test = reader(folder, train=True), reader(folder, train=False)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{source.name} is not in {folder} or is damaged; run `compressbench data --sets {source.folder}`, or "
            f"put torchvision's {reader.base_folder}/ there or set COMPRESSBENCH_DATA."
        ) from error
    arrays, test_arrays = ((part.data, np.asarray(part.targets)) for part in (train, test))
    return divide(about or source, arrays, test_arrays, validation, limit)


def _reader(source: DatasetInfo) -> Any:
    from compressbench.torchvision_compat import torchvision

    return {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[source.name]


def _download(source: DatasetInfo, folder: Path) -> None:
    """torchvision's own download, which checks the files; nothing where they are there already."""
    reader, place = _reader(source), external_folder(folder)
    try:
        make_folder(place)
        reader(place, download=True)
    except Exception as error:  # of any kind: no network, a proxy's page instead of the archive, a full disk
        raise UserError(
            f"{source.name} is not in {place} and cannot be downloaded ({str(error).strip()[:200]}); put torchvision's "
            f"{reader.base_folder}/ there, or set COMPRESSBENCH_DATA to the folder that has it."
        ) from error


def _dataset(source: DatasetInfo, md5: str) -> Dataset:
    return Dataset(source, partial(load, source), download=partial(_download, source), hash=md5)


# The hash is that of the archive; the reader checks what was unpacked from it.
TEN, HUNDRED = (
    _dataset(CIFAR10, "c58f30108f718f92721af3b95e74349a"),
    _dataset(CIFAR100, "eb9058c3a382ffc7106e4002c42a8d85"),
)
WHOLE = replace(HUNDRED, load=partial(load, CIFAR100, about=SESSIONS, validation=0))
DATASETS = (TEN, HUNDRED, in_sessions_of(WHOLE, SESSIONS, PUBLISHED))
