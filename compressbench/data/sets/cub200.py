"""CUB-200-2011 in sessions: a hundred birds, then ten times ten."""

from pathlib import Path

import numpy as np

from compressbench.data.classification import ClassificationData, divide
from compressbench.data.datasets import RGB_IMAGENET, DatasetInfo, Protocol
from compressbench.data.files import external_folder
from compressbench.data.images import read_rgb
from compressbench.data.incremental import in_sessions_of
from compressbench.errors import UserError

SESSIONS = DatasetInfo("cub200_sessions", "class_incremental", 3, 224, 200, *RGB_IMAGENET)


def load(folder: Path, limit: int | None, about: DatasetInfo = SESSIONS) -> ClassificationData:
    """CUB-200-2011 as it is distributed, with its own division into training and test images, resized to squares.

    There is no validation split: a class has about 30 training images.
    """
    from PIL import Image

    folder = external_folder(folder) / "CUB_200_2011"

    def column(name: str) -> list[str]:
        return [line.split()[1] for line in (folder / name).read_text(encoding="utf-8").splitlines()]

    def read(part: list[int]) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((len(part), about.size, about.size, 3), dtype=np.uint8)
        for i, chosen in enumerate(part):
            image = Image.fromarray(read_rgb(folder / "images" / files[chosen]))
            images[i] = np.asarray(image.resize((about.size, about.size), Image.Resampling.BILINEAR))
        return images, np.array([labels[chosen] for chosen in part], dtype=np.int64)

    try:
        files, is_train = column("images.txt"), column("train_test_split.txt")
        labels = [int(label) - 1 for label in column("image_class_labels.txt")]
        parts = [[i for i, flag in enumerate(is_train) if flag == wanted] for wanted in ("1", "0")]
        return divide(about, read(parts[0]), read(parts[1]), validation=0, limit=limit)
    except (OSError, SyntaxError, ValueError, IndexError) as error:
        raise UserError(
            f"CUB-200-2011 is not in {folder} or is damaged ({error}); unpack it there or set COMPRESSBENCH_DATA."
        ) from error


DATASETS = (in_sessions_of(load, SESSIONS, Protocol((100, *(10 * (10,))))),)
