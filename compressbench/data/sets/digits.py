"""scikit-learn's digits, and six, two and two of them in sessions."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from compressbench.data.classification import ClassificationData, divide
from compressbench.data.datasets import Dataset, DatasetInfo, Protocol, remedy
from compressbench.data.files import wheel_folder
from compressbench.data.incremental import in_sessions_of
from compressbench.errors import UserError

SCALING = ((0.3063,), (0.3183,))
DIGITS = DatasetInfo("digits", "classification", 1, 16, 10, *SCALING)
SESSIONS = DatasetInfo("digits_sessions", "class_incremental", 1, 16, 10, *SCALING)


def load(folder: Path, limit: int | None) -> ClassificationData:
    """1,797 grey 8x8 digits of scikit-learn, enlarged to 16x16, in their order: the last ones are other writers.

    The networks halve the resolution three times, which leaves a single pixel of 8x8; enlarging (bilinear) rather than
    padding, because a padded digit would still be 1 pixel there and the rest a constant frame.
    """
    path = folder / "digits" / "digits.csv"
    try:
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        table = np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2, encoding="utf-8")
        if table.shape != (1797, 65):
            raise ValueError(f"{table.shape} numbers instead of (1797, 65)")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy(path)}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy(path)}.") from error
    pixels = torch.from_numpy(table[:, :64] / 16).view(-1, 1, 8, 8)
    images = F.interpolate(pixels, scale_factor=2, mode="bilinear").permute(0, 2, 3, 1).numpy()
    labels = table[:, 64]
    return divide(DIGITS, (images[:1400], labels[:1400]), (images[1400:], labels[1400:]), 200, limit)


def fetch(folder: Path) -> None:
    """The table of 64 pixels and a label per line that scikit-learn ships."""
    packed = wheel_folder("sklearn", "datasets", "data", "digits.csv.gz")
    (folder / "digits.csv").write_bytes(gzip.decompress(packed.read_bytes()))


WHOLE = Dataset(DIGITS, load, fetch)
DATASETS = (WHOLE, in_sessions_of(WHOLE, SESSIONS, Protocol((6, 2, 2), draws=2)))
