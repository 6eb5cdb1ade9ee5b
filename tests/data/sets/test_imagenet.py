"""ImageNet: a folder of images with all of its classes."""

from pathlib import Path

import pytest

from compressbench import data
from compressbench.data.sets import imagenet
from compressbench.errors import UserError


def folder_with(root: Path, classes: int) -> Path:
    for part in ("train", "val"):
        for label in range(classes):
            (root / "imagenet" / part / f"n{label:08}").mkdir(parents=True)
    return root / "imagenet"


def test_where_it_has_to_lie_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSBENCH_DATA", str(tmp_path))
    for ask in (data.check, data.load):
        with pytest.raises(
            UserError, match=r"imagenet wants images in .*imagenet/train/CLASS/ and .*COMPRESSBENCH_DATA"
        ):
            ask("imagenet", tmp_path / "data")


def test_a_missing_class_would_change_the_labels_of_the_others(tmp_path: Path) -> None:
    imagenet.check(folder_with(tmp_path / "whole", 1000))
    with pytest.raises(UserError, match="999 of ImageNet's 1000 classes"):
        imagenet.check(folder_with(tmp_path / "part", 999))


def test_it_is_known_without_its_files(tmp_path: Path) -> None:
    about = data.info("imagenet")
    assert (about.classes, about.image_shape) == (1000, (3, 224, 224))
    assert data.find("imagenet").of_files
