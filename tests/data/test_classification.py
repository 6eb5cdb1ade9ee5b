"""Splits, damaged files, and batches as a pure function of the step."""

from pathlib import Path

import numpy as np
import pytest
import torch

from compressbench import data
from compressbench.data.classification import random_crop, random_flip
from compressbench.data.sets.fashion_mnist import read_idx
from compressbench.errors import UserError
from compressbench.seeding import generator


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def tiny_fashion(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in {"train": 5_100, "t10k": 50}.items():
        write_idx(tmp_path / f"fashion_mnist/{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        write_idx(tmp_path / f"fashion_mnist/{part}-labels-idx1-ubyte", rng.integers(0, 10, count))
    return tmp_path


def numbered(count: int, channels: int = 1, side: int = 8) -> data.Split:
    """Image i is filled with i and labelled i."""
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(count, channels, side, side)
    layout = torch.channels_last if channels > 1 else torch.contiguous_format
    return data.Split(images.contiguous(memory_format=layout), torch.arange(count))


def test_validation_is_the_end_of_the_training_images_and_limit_cuts_the_rest(tiny_fashion):
    whole, cut = data.load("fashion_mnist", tiny_fashion), data.load("fashion_mnist", tiny_fashion, limit=30)
    assert [len(s) for s in (whole.train, whole.validation, whole.test)] == [100, 5_000, 50]
    assert len(cut.train) == 30 and torch.equal(cut.train.images, whole.train.images[:30])
    assert torch.equal(cut.validation.images, whole.validation.images)


def test_images_are_normalised(tiny_fashion):
    train = data.load("fashion_mnist", tiny_fashion).train
    raw = read_idx(tiny_fashion / "fashion_mnist/train-images-idx3-ubyte")[:100]
    expected = (torch.tensor(raw).float() / 255 - 0.2860) / 0.3530
    torch.testing.assert_close(train.images[:, 0], expected)
    assert train.images.dtype == torch.float32 and train.labels.dtype == torch.int64
    assert train.black == pytest.approx((-0.2860 / 0.3530,))


def test_real_fashion_mnist(data_root):
    loaded = data.load("fashion_mnist", data_root / "data")
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [55_000, 5_000, 10_000]
    assert loaded.test.labels.bincount().tolist() == [1_000] * 10
    assert abs(loaded.train.images.mean()) < 0.01 and abs(loaded.train.images.std() - 1) < 0.01


def test_real_digits(data_root):
    loaded = data.load("digits", data_root / "data")
    assert loaded.train.images.shape == (1_200, 1, 16, 16)
    assert len(loaded.train) + len(loaded.validation) + len(loaded.test) == 1_797
    assert all(len(split.labels.unique()) == 10 for split in (loaded.train, loaded.validation, loaded.test))
    assert abs(loaded.train.images.mean()) < 0.001 and abs(loaded.train.images.std() - 1) < 0.001


@pytest.mark.parametrize("damage", ["truncated", "missing", "header", "empty"])
def test_damaged_file_is_named(tiny_fashion, damage):
    path = tiny_fashion / "fashion_mnist/train-images-idx3-ubyte"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"truncated": content[:-5], "header": b"\x1f\x8b" + content[2:], "empty": b""}[damage])
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte is .*delete the folder .*/fashion_mnist and run `compressb"
    ):
        data.load("fashion_mnist", tiny_fashion)


@pytest.mark.parametrize("content", [None, b"", b"1,2,3\n", b"\xff\xfe", b"a,b\n"])
def test_damaged_digits_are_named(tmp_path, content):
    (tmp_path / "digits").mkdir()
    if content is not None:
        (tmp_path / "digits/digits.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"digits\.csv is"):
        data.load("digits", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "div2k"])
def test_absent_external_data_names_the_folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSBENCH_DATA", str(tmp_path))
    with pytest.raises(UserError, match=str(tmp_path)):
        data.load(name, tmp_path / "data")


def test_nobody_is_told_to_download_what_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="imagenet does not fit in memory"):
        data.load("imagenet", tmp_path)


def test_cifar_is_read_in_torchvisions_layout(tmp_path, monkeypatch):
    from compressbench.torchvision_compat import torchvision

    class Fake:
        base_folder = "fake"

        def __init__(self, folder, train):
            count = 5_010 if train else 7
            self.data, self.targets = np.full((count, 32, 32, 3), 255, np.uint8), [1] * count

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
    loaded = data.load("cifar10", tmp_path)
    assert loaded.train.images.shape == (10, 3, 32, 32)
    assert loaded.train.images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        loaded.test.images[0, :, 0, 0], torch.tensor([0.5086 / 0.2470, 0.5178 / 0.2435, 0.5535 / 0.2616])
    )


def test_one_pass_shows_every_image_once_and_passes_differ():
    batches = data.ClassificationBatches(numbered(20), 5, seed=0)
    passes = [torch.cat([batches(step)[1] for step in range(4 * p, 4 * p + 4)]) for p in range(2)]
    assert batches.steps_per_epoch == 4
    assert all(torch.equal(order.sort().values, torch.arange(20)) for order in passes)
    assert not torch.equal(*passes)


@pytest.mark.parametrize("augmentation", ["none", "flip", "crop_flip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_depends_on_nothing_but_seed_and_step(augmentation, channels):
    split = data.Split(torch.randn(40, channels, 16, 16), torch.arange(40))
    first, second = (data.ClassificationBatches(split, 8, seed=3, augmentation=augmentation) for _ in range(2))
    there = [first(step) for step in range(12)]
    back = [second(step) for step in reversed(range(12))][::-1]
    assert all(torch.equal(a, b) for x, y in zip(there, back, strict=True) for a, b in zip(x, y, strict=True))
    other = data.ClassificationBatches(split, 8, seed=4, augmentation=augmentation)(0)
    assert not torch.equal(there[0][1], other[1])


@pytest.mark.parametrize("augmentation", ["none", "flip", "crop_flip"])
def test_images_keep_their_labels_and_their_layout(augmentation):
    batches = data.ClassificationBatches(numbered(30, channels=3, side=16), 10, seed=0, augmentation=augmentation)
    images, labels = batches(1)
    assert torch.equal(images[:, 0, 8, 8], labels.float())
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_flip_mirrors_about_half_of_the_images_and_whole_images():
    images = torch.arange(8.0).expand(1_000, 2, 8, 8)
    flipped = random_flip(images, generator(0))
    mirrored = flipped[:, 0, 0, 0] == 7
    assert 400 < mirrored.sum() < 600
    assert torch.equal(flipped[mirrored], images[mirrored].flip(-1))
    assert torch.equal(flipped[~mirrored], images[~mirrored])


def test_crop_is_a_window_of_the_image_padded_with_black():
    image = torch.randn(2, 8, 8)
    black = (-1.5, 2.5)
    padded = torch.tensor(black).view(2, 1, 1).expand(2, 10, 10).clone()
    padded[:, 1:9, 1:9] = image
    windows = {(t, c): padded[:, t : t + 8, c : c + 8] for t in range(3) for c in range(3)}
    crops = random_crop(image.expand(300, -1, -1, -1), 1, black, generator(0))
    found = [next(k for k, w in windows.items() if torch.allclose(w, crop, atol=1e-6)) for crop in crops]
    assert set(found) == set(windows)


@pytest.mark.parametrize("size", [0, 31])
def test_batch_size_that_does_not_fit_is_refused(size):
    with pytest.raises(UserError, match="batch_size"):
        data.ClassificationBatches(numbered(30), size, seed=0)
