"""ImageNet (ILSVRC 2012)."""

from pathlib import Path

from compressbench.data.classification import ClassificationData
from compressbench.data.datasets import RGB_IMAGENET, Dataset, DatasetInfo
from compressbench.errors import UserError


def load(folder: Path, limit: int | None) -> ClassificationData:
    """ImageNet does not fit into one tensor; the suite checks its networks at full size but trains them elsewhere."""
    raise UserError(
        "imagenet does not fit in memory, and other data sets cannot be loaded; choose a pair of another one."
    )


DATASETS = (Dataset(DatasetInfo("imagenet", "classification", 3, 224, 1000, *RGB_IMAGENET, images=1_281_167), load),)
