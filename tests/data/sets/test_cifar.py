"""CIFAR in torchvision's layout."""

import numpy as np
import torch

from compressbench import data


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
