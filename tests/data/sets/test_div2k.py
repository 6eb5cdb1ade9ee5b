"""DIV2K and Set14 as folders of PNG files."""

import pytest
import torch
from PIL import Image

from compressbench import data
from compressbench.errors import UserError


def test_div2k_is_read_from_png_folders(tmp_path):
    for folder, name in {"DIV2K_train_HR": "0001", "Set14": "baboon"}.items():
        (tmp_path / "external/div2k" / folder).mkdir(parents=True)
        Image.new("L", (13, 9), 200).save(tmp_path / "external/div2k" / folder / f"{name}.png")
    loaded = data.load("div2k", tmp_path, upscaling=4)
    assert loaded.train[0].high.shape == (3, 8, 12) and loaded.test[0].low.shape == (3, 2, 3)
    assert loaded.upscaling == 4 and (loaded.test[0].low == 200).all()
    low, high = data.PatchBatches(loaded.train, 4, patch=2, batch_size=3, seed=0)(0)
    assert low.dtype == high.dtype == torch.float32


@pytest.fixture
def div2k(tmp_path):
    for folder in ("DIV2K_train_HR", "Set14"):
        (tmp_path / "external/div2k" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "external/div2k" / folder / "a.png")
    return tmp_path


def test_nobody_is_told_to_delete_what_the_suite_cannot_fetch(div2k):
    (div2k / "external/div2k/Set14/a.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"a\.png is damaged.*whole copy") as error:
        data.load("div2k", div2k)
    assert "delete the folder" not in str(error.value) and "compressbench data" not in str(error.value)


def test_what_operating_systems_leave_beside_images_is_no_image(div2k):
    (div2k / "external/div2k/Set14/._a.png").write_bytes(b"left behind")
    assert len(data.load("div2k", div2k).test) == 1
