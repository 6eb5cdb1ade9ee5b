"""Fashion-MNIST: its IDX files, damaged ones, and the sources that they come from."""

import errno
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from compressbench import data
from compressbench.data import sources
from compressbench.data.sets import fashion_mnist
from compressbench.data.sets.fashion_mnist import read_idx
from compressbench.errors import UserError


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


@pytest.fixture(autouse=True)
def no_installed_package(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", Path("usr/share/datasets/nowhere"))


def broken(scratch: Path) -> Path:
    raise OSError("no network")


@pytest.mark.parametrize("relative", [False, True])
def test_debian_package_is_the_fallback_and_is_decompressed(tmp_path, monkeypatch, relative):
    commands = []
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    data = Path("data") if relative else tmp_path / "data"  # the command line has a relative one

    def run(command: list[str], folder: Path) -> None:
        commands.append(command[:2])
        if command[1] == "download":
            (folder / "dataset.deb").touch()
        if command[0] == "dpkg":
            assert (folder / command[2]).is_file()
            target = folder / "unpacked" / fashion_mnist._DEBIAN_FOLDER
            target.mkdir(parents=True)
            for name in fashion_mnist.IDX_FILES:
                (target / f"{name}.gz").write_bytes(gzip.compress(name.encode()))

    monkeypatch.setattr(fashion_mnist, "_from_torchvision", broken)
    monkeypatch.setattr(fashion_mnist, "_run", run)
    fashion_mnist.fetch(data)
    assert {path.name: path.read_text(encoding="utf-8") for path in data.iterdir()} == {
        name: name for name in fashion_mnist.IDX_FILES
    }
    assert commands == [["apt-get", "download"], ["dpkg", "-x"]]


def test_failure_of_every_source_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_from_torchvision", broken)
    monkeypatch.setattr(fashion_mnist, "_from_debian", broken)
    monkeypatch.setattr(sources, "SOURCES", {"fashion_mnist": fashion_mnist.fetch})
    with pytest.raises(UserError, match=r"no network.*train-images-idx3-ubyte"):
        sources.fetch(tmp_path)
    assert list((tmp_path / "data").iterdir()) == []


def test_full_disk_is_no_reason_to_try_another_source(tmp_path, monkeypatch):
    def full(scratch: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fashion_mnist, "_from_torchvision", full)
    monkeypatch.setattr(fashion_mnist, "_from_debian", lambda scratch: pytest.fail("asked another source"))
    monkeypatch.setattr(sources, "SOURCES", {"fashion_mnist": fashion_mnist.fetch})
    with pytest.raises(UserError, match=r"cannot write .*fashion_mnist: No space left on device; make room\.$"):
        sources.fetch(tmp_path)
    assert list((tmp_path / "data").iterdir()) == []
