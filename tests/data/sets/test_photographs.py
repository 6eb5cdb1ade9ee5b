"""The photographs of the wheels: split by scene, reduced, and damaged ones."""

import shutil

import pytest
import torch

from compressbench import data
from compressbench.data.imresize import downscale
from compressbench.data.sets.photographs import TEST_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS
from compressbench.errors import UserError


def test_split_is_by_scene():
    assert not set(TRAIN_PHOTOGRAPHS) & set(TEST_PHOTOGRAPHS)
    assert len(TRAIN_PHOTOGRAPHS) == 7 and len(TEST_PHOTOGRAPHS) == 4
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= set(TRAIN_PHOTOGRAPHS)


def test_low_resolution_is_the_reduced_high_resolution(photographs):
    for pair in photographs.train + photographs.test:
        assert pair.low.dtype == pair.high.dtype == torch.float32
        assert torch.equal(pair.low, downscale(pair.high.byte(), 2).float())
    assert all(pair.high.shape == (3, 256, 256) for pair in photographs.test)
    assert all(max(pair.high.shape) <= 640 for pair in photographs.train)


def test_limit_cuts_the_training_photographs_only(data_root, photographs):
    cut = data.load("photographs", data_root / "data", limit=2, upscaling=4)
    assert [pair.name for pair in cut.train] == [pair.name for pair in photographs.train[:2]]
    assert len(cut.test) == 4 and cut.test[0].low.shape == (3, 64, 64)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
@pytest.mark.parametrize("name", ["astronaut.png", "china.jpg"])
def test_damaged_photograph_is_named(data_root, tmp_path, damage, name):
    shutil.copytree(data_root / "data/photographs", tmp_path / "photographs")
    path = tmp_path / "photographs" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(UserError, match=f"{name} is .*delete the folder .*/photographs and run `compressbench data`"):
        data.load("photographs", tmp_path)
