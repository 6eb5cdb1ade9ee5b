"""What a data set is, before anything is loaded."""

from pathlib import Path

import pytest

from compressbench import data
from compressbench.data.datasets import DATASETS, Dataset, fetchable, remedy
from compressbench.errors import UserError


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
