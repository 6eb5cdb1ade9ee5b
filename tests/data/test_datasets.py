"""What a data set is, before anything is loaded."""

from pathlib import Path

import pytest

from compressbench import data
from compressbench.data.datasets import DATASETS, Dataset, fetchable, remedy
from compressbench.errors import UserError
from tests.conftest import run_python


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'mnist'.*fashion_mnist"):
        data.info("mnist")


@pytest.mark.parametrize("entry", DATASETS.values(), ids=DATASETS)
def test_facts_fit_each_other(entry: Dataset) -> None:
    about = entry.info
    assert len(about.mean) == len(about.std) == about.channels and min(about.std) > 0
    assert (about.classes == 0) == (about.task == "super_resolution")
    assert about.image_shape == (about.channels, about.size, about.size) and data.info(about.name) is about
    assert (entry.protocol is not None) == (about.task == "class_incremental")


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_sessions_divide_the_classes_of_the_data_set_whose_files_they_read(name: str) -> None:
    whole, sessions = data.info(name), data.info(f"{name}_sessions")
    assert sessions.folder == whole.folder == name
    assert (sessions.classes, sessions.image_shape, sessions.mean) == (whole.classes, whole.image_shape, whole.mean)


def test_nobody_is_told_to_delete_what_cannot_be_fetched() -> None:
    for name in fetchable():
        assert remedy(Path("data") / name / "file") == (
            f"delete the folder data/{name} and run `compressbench data`, which fetches it again"
        )
    assert "delete" not in remedy(Path("data/external/div2k/a.png"))
    assert set(fetchable()) <= DATASETS.keys()


MINE = """
import numpy as np

from compressbench.data.classification import divide
from compressbench.data.datasets import Dataset, DatasetInfo

INFO = DatasetInfo("mine", "classification", 1, 8, 2, (0.5,), (0.5,))


def load(folder, limit):
    images, labels = np.zeros((40, 8, 8, 1), np.float32), np.arange(40) % 2
    return divide(INFO, (images[:30], labels[:30]), (images[30:], labels[30:]), 10, limit)


DATASETS = (Dataset(INFO, load),)
"""
LOAD = """
from pathlib import Path
from compressbench import data

loaded = data.load("mine", Path("data"))
print(data.info("mine").classes, len(loaded.train.labels), len(loaded.test.labels))
"""


def test_a_module_in_the_folder_is_a_data_set(library: Path) -> None:
    (library / "compressbench/data/sets/mine.py").write_text(MINE, encoding="utf-8")
    assert run_python(library, "-c", LOAD) == "2 20 10\n"
