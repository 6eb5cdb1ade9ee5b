"""Folders in ImageNet's layout, by configuration alone."""

import shutil
from pathlib import Path

import pytest
import torch

from compressbench import data
from compressbench.config import ImageFolder
from compressbench.errors import UserError
from tests.contexts.folders import FOLDER_CLASSES, TRAIN_IMAGES, VAL_IMAGES


def form(**own: object) -> ImageFolder:
    return ImageFolder.model_validate({"kind": "image_folder", "path": "birds", "size": 16, **own})


@pytest.fixture
def beside(birds: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data/ whose external data are those of the fixture."""
    monkeypatch.setenv("COMPRESSBENCH_DATA", str(birds.parent))
    return Path("data")


@pytest.fixture
def copied(birds: Path, tmp_path: Path) -> Path:
    """A folder to change, below data/external."""
    return Path(shutil.copytree(birds, tmp_path / "data/external/birds"))


def test_classes_and_splits_come_from_the_folders(beside: Path) -> None:
    loaded = data.load("own", beside, own=form(validation=2))
    assert (loaded.info.name, loaded.info.classes, loaded.info.image_shape) == ("own", FOLDER_CLASSES, (3, 16, 16))
    total = FOLDER_CLASSES * TRAIN_IMAGES
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [
        total - 2,
        2,
        FOLDER_CLASSES * VAL_IMAGES,
    ]
    assert torch.bincount(loaded.test.labels).tolist() == [VAL_IMAGES] * FOLDER_CLASSES
    names = {bytes(name) for part in (loaded.train, loaded.validation) for name in part.names}
    assert len(names) == total  # no image in both
    for split in (loaded.train, loaded.test):
        assert all(
            f"bird{label}/".encode() in name for name, label in zip(split.names, split.labels.tolist(), strict=True)
        )
    assert data.find("own", beside, form()).info == loaded.info


def test_the_first_images_are_a_sample_of_the_classes_and_stay_so_when_others_come(beside: Path, copied: Path) -> None:
    loaded = data.load("own", beside, own=form())
    assert set(loaded.train.labels[:10].tolist()) == set(range(FOLDER_CLASSES))
    assert len(loaded.validation) == FOLDER_CLASSES * TRAIN_IMAGES // 10  # at most a tenth
    cut = data.load("own", beside, limit=4, own=form())
    assert cut.train.names.tolist() == loaded.train.names[:4].tolist()
    assert cut.validation.names.tolist() == loaded.validation.names.tolist()


def test_a_new_file_leaves_the_order_of_the_others(copied: Path) -> None:
    folder = copied.parents[1]
    before = data.load("own", folder, own=form(validation=0)).train.names.tolist()
    (copied / "train/bird0/nested").mkdir()
    shutil.copy(copied / "train/bird0/0_0.JPEG", copied / "train/bird0/nested/new.jpg")
    for name in (".hidden.jpg", "notes.txt"):
        (copied / "train/bird0" / name).touch()
    after = data.load("own", folder, own=form(validation=0)).train.names.tolist()
    assert [name for name in after if name != b"bird0/nested/new.jpg"] == before and len(after) == len(before) + 1


def test_size_normalisation_and_preprocessing_are_those_asked_for(beside: Path) -> None:
    own = form(resize=20, mean=[0.1, 0.2, 0.3], std=[0.5, 0.5, 0.5], interpolation="bicubic")
    how = data.load("own", beside, own=own).train.preprocessing
    assert (how.size, how.resize, how.mean, how.interpolation) == (16, 20, (0.1, 0.2, 0.3), "bicubic")
    assert data.load("own", beside, own=form()).train.preprocessing.resize == 18  # as 256 to 224
    other = data.Preprocessing(8, 9, (0.5,) * 3, (0.5,) * 3)
    loaded = data.load("own", beside, own=own, preprocessing=other)
    assert loaded.test.images_at(slice(2)).shape == (2, 3, 8, 8) and loaded.info.mean == (0.5,) * 3


def test_there_may_be_fewer_folders_than_the_networks_have_classes_but_not_more(beside: Path) -> None:
    assert data.load("own", beside, own=form(classes=1000)).info.classes == 1000
    with pytest.raises(UserError, match="has 3 classes, more than the 2 of own"):
        data.check("own", beside, form(classes=2))


def test_what_is_missing_is_said_before_anything_is_read(copied: Path) -> None:
    folder = copied.parents[1]
    data.check("own", folder, form())
    assert data.find("own", folder, form(path="elsewhere")).info.classes == 0  # a plan can be looked at
    with pytest.raises(UserError, match=r"own wants images in .*elsewhere/train/CLASS/ .* correct the path"):
        data.check("own", folder, form(path="elsewhere"))
    (copied / "val/owl").mkdir()
    with pytest.raises(UserError, match=r"val has the class owl, which .*train does not have"):
        data.check("own", folder, form())


def test_a_folder_without_images_is_named(copied: Path) -> None:
    for path in (copied / "val").rglob("*.JPEG"):
        path.unlink()
    with pytest.raises(UserError, match=r"birds/val has no image in the folder of any class"):
        data.load("own", copied.parents[1], own=form())


def test_another_users_path_is_no_part_of_the_configuration() -> None:
    assert form(path="here").model_dump() == form(path="/mnt/there").model_dump()
