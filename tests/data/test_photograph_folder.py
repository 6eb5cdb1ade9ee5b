"""The folder in ImageNet's layout that is cut from photographs."""

from pathlib import Path

import pytest
from PIL import Image

from compressbench import data
from compressbench.config import ImageFolder
from compressbench.data import photograph_folder


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The halves of two photographs, one of them a second time."""
    folder = tmp_path_factory.mktemp("data") / "external/photographs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photograph_folder, "PHOTOGRAPHS", ["chelsea.png", "rocket.jpg"])
        photograph_folder.write(folder, classes=5, train=11, val=1)
    return folder


def test_it_has_as_many_classes_as_asked_for(cut: Path) -> None:
    names = ["chelsea_left", "chelsea_left_1", "chelsea_right", "rocket_left", "rocket_right"]
    assert [[path.name for path in sorted((cut / part).iterdir())] for part in ("train", "val")] == [names, names]
    first, again = ((cut / f"val/{name}/{name}_000.JPEG").read_bytes() for name in names[:2])
    assert first != again
    assert len(photograph_folder.PHOTOGRAPHS) == 10  # by default: twenty halves


def test_it_is_a_folder_of_images_of_all_kinds_and_sizes(cut: Path) -> None:
    form = ImageFolder.model_validate({"kind": "image_folder", "path": "photographs", "classes": 1000})
    loaded = data.load("imagenet", cut.parents[1], own=form)
    assert len(loaded.train) + len(loaded.validation) == 55 and len(loaded.test) == 5
    assert loaded.test.images_at(slice(None)).shape == (5, 3, 224, 224)
    files = sorted((cut / "train/chelsea_left").iterdir())
    images = [Image.open(path) for path in files]
    assert {image.format for image in images} == {"JPEG"} and {image.mode for image in images} == {"RGB", "L", "CMYK"}
    assert len({image.size for image in images}) > 5
    assert [path.name for path in cut.parent.iterdir()] == ["photographs"]  # nothing is left behind


def test_it_is_the_same_every_time(cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photograph_folder, "PHOTOGRAPHS", ["rocket.jpg"])
    photograph_folder.write(tmp_path / "again", classes=2, train=2, val=1)
    for path in (tmp_path / "again").rglob("*.JPEG"):
        assert path.read_bytes() == (cut / path.relative_to(tmp_path / "again")).read_bytes()
