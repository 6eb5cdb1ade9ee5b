"""CUB-200-2011 in sessions: a hundred birds, then ten times ten."""

from pathlib import Path

from compressbench.data.classification import ClassificationData
from compressbench.data.datasets import RGB_IMAGENET, Brought, Dataset, DatasetInfo, Protocol, wants
from compressbench.data.files import external_folder
from compressbench.data.folder_split import FolderSplit
from compressbench.data.incremental import in_sessions_of
from compressbench.data.loader import HERE, Loader
from compressbench.data.preprocessing import Preprocessing
from compressbench.errors import UserError

SESSIONS = DatasetInfo("cub200_sessions", "class_incremental", 3, 224, 200, *RGB_IMAGENET)
EVALUATION = Preprocessing(224, 256, *RGB_IMAGENET)
PLACE, TABLES = "CUB_200_2011", ("images.txt", "image_class_labels.txt", "train_test_split.txt")


def load(
    folder: Path,
    limit: int | None,
    about: DatasetInfo = SESSIONS,
    preprocessing: Preprocessing | None = None,
    loader: Loader = HERE,
) -> ClassificationData:
    """CUB-200-2011 as it is distributed, with its own division into training and test images, which are read one by one.

    Nothing is held out: a class has about 30 training images.
    """
    how, folder = preprocessing or EVALUATION, external_folder(folder) / PLACE
    try:
        files, labels, is_train = (_column(folder / name) for name in TABLES)
        rows = list(zip(files, map(int, labels), is_train, strict=True))
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"CUB-200-2011 is not in {folder} or is damaged ({error}); unpack it there or set COMPRESSBENCH_DATA."
        ) from error
    parts = ([(file, label - 1) for file, label, flag in rows if flag == wanted] for wanted in ("1", "0"))
    train, test = (FolderSplit.of(folder / "images", part, how, loader) for part in parts)
    return ClassificationData(about.adapted(how), train.take(slice(limit)), train.take(slice(0)), test)


def _column(path: Path) -> list[str]:
    return [line.split()[1] for line in path.read_text(encoding="utf-8").splitlines()]


BIRDS = Dataset(SESSIONS, load, brought=Brought(PLACE, wants("CUB-200-2011", "images", *TABLES)), of_files=True)
DATASETS = (in_sessions_of(BIRDS, SESSIONS, Protocol((100, *(10 * (10,))))),)
