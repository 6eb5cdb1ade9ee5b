"""CUB-200-2011 as it is distributed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressbench.data.datasets import info
from compressbench.data.sets import cub200


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """Three images of two classes; the second is for testing."""
    folder = tmp_path / "external/CUB_200_2011"
    files = ["001.A/a.jpg", "001.A/b.jpg", "002.B/c.jpg"]
    for shade, file in zip((0, 128, 255), files, strict=True):
        (folder / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), shade, np.uint8)).save(folder / "images" / file)
    columns = {"images": files, "image_class_labels": [1, 1, 2], "train_test_split": [1, 0, 1]}
    for name, values in columns.items():
        (folder / f"{name}.txt").write_text("".join(f"{i} {v}\n" for i, v in enumerate(values, 1)), encoding="utf-8")
    return tmp_path


def test_cub_is_read_as_it_is_distributed(cub: Path) -> None:
    about = info("cub200_sessions")
    loaded = cub200.load(cub, None, about)
    assert loaded.train.labels.tolist() == [0, 1] and loaded.test.labels.tolist() == [0]
    images = loaded.train.images_at(slice(None))
    assert images.shape == (2, 3, 224, 224) and len(loaded.validation) == 0
    white = (1 - torch.tensor(about.mean)) / torch.tensor(about.std)
    torch.testing.assert_close(images[1, :, 0, 0], white, atol=0.05, rtol=0)
