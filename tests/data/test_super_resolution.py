"""Pairs of photographs and aligned patches."""

import shutil

import pytest
import torch
from PIL import Image

from compressbench import data
from compressbench.data.imresize import downscale
from compressbench.data.sets.photographs import TEST_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS
from compressbench.data.super_resolution import ImagePair
from compressbench.errors import UserError


@pytest.fixture(scope="module")
def photographs(data_root):
    return data.load("photographs", data_root / "data")


def addressed(height: int, width: int, scale: int) -> ImagePair:
    """Every low-resolution pixel has its own value, and its high-resolution pixels have the same."""
    low = torch.arange(3 * height * width).float().view(3, height, width)
    return ImagePair("addressed", low, low.repeat_interleave(scale, 1).repeat_interleave(scale, 2))


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
    cut = data.load("photographs", data_root / "data", limit=2, scale=4)
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


def test_div2k_is_read_from_png_folders(tmp_path):
    for folder, name in {"DIV2K_train_HR": "0001", "Set14": "baboon"}.items():
        (tmp_path / "external/div2k" / folder).mkdir(parents=True)
        Image.new("L", (13, 9), 200).save(tmp_path / "external/div2k" / folder / f"{name}.png")
    loaded = data.load("div2k", tmp_path, scale=4)
    assert loaded.train[0].high.shape == (3, 8, 12) and loaded.test[0].low.shape == (3, 2, 3)
    assert loaded.scale == 4 and (loaded.test[0].low == 200).all()
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


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_patches_are_aligned_after_every_turn(scale):
    batches = data.PatchBatches([addressed(11, 17, scale)], scale, patch=6, batch_size=64, seed=0)
    low, high = batches(0)
    assert low.shape == (64, 3, 6, 6) and high.shape == (64, 3, 6 * scale, 6 * scale)
    assert torch.equal(low.repeat_interleave(scale, 2).repeat_interleave(scale, 3), high)


def test_all_eight_turns_and_all_places_occur():
    low, _ = data.PatchBatches([addressed(5, 6, 2)], 2, patch=4, batch_size=600, seed=0)(0)
    turns = {(int(p[0, 0, 1] - p[0, 0, 0]), int(p[0, 1, 0] - p[0, 0, 0])) for p in low}
    assert turns == {(a, b) for x in (1, -1) for y in (6, -6) for a, b in ((x, y), (y, x))}
    assert {int(p[0].min()) for p in low} == {0, 1, 2, 6, 7, 8}


def test_a_batch_depends_on_nothing_but_seed_and_step(photographs):
    first, second = (data.PatchBatches(photographs.train, 2, 16, 4, seed=1) for _ in range(2))
    late = [second(step) for step in (9, 0)]
    assert all(torch.equal(a, b) for a, b in zip(first(0), late[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first(9), late[0], strict=True))
    assert not torch.equal(first(0)[0], first(1)[0])


def test_patch_that_does_not_fit_is_refused():
    for patch in (0, 12):
        with pytest.raises(UserError, match="patch"):
            data.PatchBatches([addressed(11, 17, 2)], 2, patch, 4, seed=0)
    with pytest.raises(UserError, match="enlarged by 4"):
        data.PatchBatches([addressed(11, 17, 2)], 4, 4, 4, seed=0)
