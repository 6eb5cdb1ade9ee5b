"""Windows of photographs, without labels, as a network of other sizes and statistics wants them."""

from pathlib import Path

import pytest
import torch

from compressbench import data
from compressbench.data.preprocessing import Preprocessing
from compressbench.data.sets.photograph_crops import SMALLEST, UNLABELLED, WINDOWS, windows

SMALL = Preprocessing(32, 40, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def crops(data_root: Path) -> data.ClassificationData:
    return data.load("photograph_crops", data_root / "data", limit=9, preprocessing=SMALL)


def test_every_photograph_gives_as_many_windows_and_none_has_a_label(crops: data.ClassificationData) -> None:
    assert crops.test.images.shape == (4 * WINDOWS, 3, 32, 32) and crops.train.images.shape == (9, 3, 32, 32)
    assert len(crops.validation) == 0
    assert {int(label) for split in (crops.train, crops.test) for label in split.labels} == {UNLABELLED}
    assert len({image.sum().item() for image in crops.test.images}) == 4 * WINDOWS


def test_calibration_images_are_of_all_photographs_before_the_second_of_one(data_root: Path) -> None:
    whole = data.load("photograph_crops", data_root / "data", limit=None, preprocessing=SMALL).train.images
    assert len(whole) == 7 * WINDOWS
    means = whole.unflatten(0, (WINDOWS, 7)).mean((2, 3, 4))
    # windows of one photograph are more alike than those of different ones
    assert means.std(0).mean() < means.std(1).mean()


def test_pixels_are_normalised_as_the_network_wants(crops: data.ClassificationData, data_root: Path) -> None:
    other = Preprocessing(32, 40, (0.0,) * 3, (1.0,) * 3)
    plain = data.load("photograph_crops", data_root / "data", limit=1, preprocessing=other).test.images
    assert plain.min() >= 0 and plain.max() <= 1
    torch.testing.assert_close((plain - 0.5) / 0.25, crops.test.images)


def test_windows_are_square_of_all_sizes_and_depend_on_the_name_alone() -> None:
    image = torch.arange(3 * 50 * 80).view(3, 50, 80)
    first, *others = windows(image, "one")
    assert first is image and len(others) == WINDOWS - 1
    sides = [part.shape[1] for part in others]
    assert all(part.shape[1] == part.shape[2] for part in others)
    assert min(sides) >= SMALLEST * 50 and max(sides) <= 50 and len(set(sides)) > 5
    assert all(torch.equal(a, b) for a, b in zip(windows(image, "one"), windows(image, "one"), strict=True))
    assert any(a.shape != b.shape for a, b in zip(windows(image, "one"), windows(image, "other"), strict=True))
