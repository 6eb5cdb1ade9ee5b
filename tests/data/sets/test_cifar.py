"""CIFAR in torchvision's layout."""

from pathlib import Path

import numpy as np
import pytest
import torch

from compressbench import data
from compressbench.errors import UserError


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


def test_the_hash_is_that_of_the_archive_which_torchvision_checks() -> None:
    from compressbench.torchvision_compat import torchvision

    assert data.find("cifar10").hash == torchvision.datasets.CIFAR10.tgz_md5
    assert data.find("cifar100").hash == data.find("cifar100_sessions").hash == torchvision.datasets.CIFAR100.tgz_md5


def test_where_it_cannot_be_downloaded_is_said_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressbench.torchvision_compat import torchvision

    class Offline:
        base_folder = "cifar-10-batches-py"

        def __init__(self, folder: Path, download: bool) -> None:
            raise OSError("<urlopen error: no route>")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Offline)
    monkeypatch.setenv("COMPRESSBENCH_DATA", str(tmp_path / "sets"))
    download = data.find("cifar10").download
    assert download is not None
    with pytest.raises(
        UserError, match=r"cifar10 is not in .*sets .*no route.*; put torchvision's cifar-10-batches-py/ there"
    ):
        download(tmp_path)
