"""A real context on the digits, small enough for tests."""

from pathlib import Path

import torch

from compressbench import storage
from compressbench.config import Pair
from compressbench.stages.context import Context

RECIPE = {"epochs": 1, "batch_size": 64, "lr": 0.1, "weight_decay": 5e-4}
RESNET = {
    "in_channels": 1,
    "blocks": [1, 1, 1],
    "widths": [4, 8, 8],
    "stem_stride": 2,
    "shortcut": "pad",
    "classifier": "conv",
}


def make_context(data_root: Path, folder: Path, stage: str = "compress", seed: int = 0, **recipe: object) -> Context:
    """A context of the pair digits/resnet_mini, with an (untrained) dense model in `folder`/dense."""
    chosen = RECIPE | recipe
    pair = Pair.model_validate(
        {"architecture": "resnet_cifar", "arguments": RESNET, "scratch": chosen, "pretrain": chosen, "finetune": chosen}
    )
    ctx = Context(
        root=data_root, stage=stage, seed=seed, pair=pair, dataset="digits", folder=folder / stage,
        device=torch.device("cpu"), dense_folder=folder / "dense",
    )  # fmt: skip
    if not (folder / "dense" / "model.json").exists():
        storage.save_model(ctx.build(), folder / "dense")
    return ctx
