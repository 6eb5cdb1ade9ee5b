"""A small folder in ImageNet's layout, and a context that reads it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from compressbench.config import ImageFolder, Pair
from compressbench.method import Context
from tests.contexts import RECIPE

FOLDER_CLASSES, TRAIN_IMAGES, VAL_IMAGES = 3, 8, 2  # of every class


def write_birds(folder: Path) -> Path:
    """JPEGs of noise, each of a size of its own."""
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAIN_IMAGES), ("val", VAL_IMAGES)):
        for label in range(FOLDER_CLASSES):
            (folder / part / f"bird{label}").mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (*rng.integers(20, 60, 2), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / f"bird{label}" / f"{label}_{number}.JPEG")
    return folder


def make_folder_context(root: Path) -> Context:
    """Of a small network on the birds in root/data/external."""
    write_birds(root / "data/external/birds")
    recipe = RECIPE | {"batch_size": 5, "augmentation": "resized_crop_flip"}
    network = {"blocks": [1, 1], "widths": [4, 8], "classes": FOLDER_CLASSES}
    pair = {
        "architecture": "resnet_cifar",
        "arguments": network,
        "scratch": recipe,
        "pretrain": recipe,
        "finetune": recipe,
    }
    return Context(
        root=root, stage="compress", seed=0, pair=Pair.model_validate(pair), dataset="birds", folder=root / "compress",
        device=torch.device("cpu"),
        image_folder=ImageFolder.model_validate({"kind": "image_folder", "path": "birds", "size": 16}),
    )  # fmt: skip
