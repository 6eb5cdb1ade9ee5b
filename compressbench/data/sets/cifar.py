"""CIFAR-10 and CIFAR-100, and the few-shot sessions of CIFAR-100 that Tao et al. (CVPR 2020) publish."""

from functools import partial
from pathlib import Path

import numpy as np

from compressbench.data.classification import ClassificationData, divide
from compressbench.data.datasets import RGB_IMAGENET, Dataset, DatasetInfo, Protocol
from compressbench.data.files import external_folder
from compressbench.data.incremental import in_sessions_of
from compressbench.data.sets._cifar100_few_shot import CIFAR100_FEW_SHOT
from compressbench.errors import UserError

CIFAR10 = DatasetInfo("cifar10", "classification", 3, 32, 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = DatasetInfo("cifar100", "classification", 3, 32, 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2556, 0.2761))
SESSIONS = DatasetInfo("cifar100_sessions", "class_incremental", 3, 32, 100, *RGB_IMAGENET)
PUBLISHED = Protocol((60, *(8 * (5,))), shuffled=False, few_shot=CIFAR100_FEW_SHOT, crop_padding=8)


def load(
    source: DatasetInfo, folder: Path, limit: int | None, about: DatasetInfo | None = None, validation: int = 5_000
) -> ClassificationData:
    """CIFAR-10 or CIFAR-100 in the layout of torchvision, which checks the files itself.

    `about` may differ from the data set's own info in its normalisation.
    """
    from compressbench.torchvision_compat import torchvision

    folder = external_folder(folder)
    name = source.name
    reader = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    try:
        train, test = reader(folder, train=True), reader(folder, train=False)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{name} is not in {folder} or is damaged; "
            f"put torchvision's {reader.base_folder}/ there or set COMPRESSBENCH_DATA."
        ) from error
    arrays, test_arrays = ((part.data, np.asarray(part.targets)) for part in (train, test))
    return divide(about or source, arrays, test_arrays, validation, limit)


DATASETS = (
    Dataset(CIFAR10, partial(load, CIFAR10)),
    Dataset(CIFAR100, partial(load, CIFAR100)),
    in_sessions_of(partial(load, CIFAR100, about=SESSIONS, validation=0), SESSIONS, PUBLISHED),
)
