"""Contexts for tests: a real one on the digits, and one iteration at the full size of a paper's network."""

from pathlib import Path

import torch

from compressbench import storage
from compressbench.config import Pair
from compressbench.data.classification import ClassificationData, Split
from compressbench.data.datasets import info
from compressbench.method import Context
from compressbench.plan import Plan, Run
from tests.conftest import ROOT

RECIPE = {"epochs": 1, "batch_size": 64, "lr": 0.1, "weight_decay": 5e-4}
RESNET = {
    "in_channels": 1,
    "blocks": [1, 1, 1],
    "widths": [4, 8, 8],
    "stem_stride": 2,
    "shortcut": "pad",
    "classifier": "conv",
}
VIT = {
    "image_size": 16,
    "patch": 4,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "mlp_ratio": 2,
    "in_channels": 1,
    "classes": 10,
}


def make_context(data_root: Path, folder: Path, stage: str = "compress", seed: int = 0, **recipe: object) -> Context:
    """A context of the pair digits/resnet_mini, with an (untrained) dense model in `folder`/dense."""
    chosen = RECIPE | recipe
    pair = Pair.model_validate(
        {"architecture": "resnet_cifar", "arguments": RESNET, "scratch": chosen, "pretrain": chosen, "finetune": chosen}
    )
    return context_of(pair, "digits", data_root, folder, stage, seed)


def context_of(pair: Pair, dataset: str, data_root: Path, folder: Path, stage: str, seed: int) -> Context:
    """A context of any pair, with an (untrained) dense model in `folder`/dense."""
    ctx = Context(
        root=data_root, stage=stage, seed=seed, pair=pair, dataset=dataset, folder=folder / stage,
        device=torch.device("cpu"), dense_folder=folder / "dense",
    )  # fmt: skip
    if not (folder / "dense" / "model.json").exists():
        storage.save_model(ctx.build(), folder / "dense")
    return ctx


def full_size_context(folder: Path, pair: str, method: str, setting: str, stage: str = "compress") -> Context:
    """One step on two random images with the network and the recipes of a pair of config/paper.yaml."""
    dataset, model = pair.split("/")
    run = Run("paper", dataset, model, method, setting, 0)
    configured = Plan(ROOT, "paper").pair(run)
    short = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "warmup_epochs": 0}
    recipes = {name: getattr(configured, name).model_copy(update=short) for name in ("scratch", "pretrain", "finetune")}
    about = info(dataset)
    random = torch.Generator().manual_seed(0)
    split = Split(torch.randn(4, *about.image_shape, generator=random), torch.arange(4))
    ctx = Context(
        root=folder, stage=stage, seed=0, pair=configured.model_copy(update=recipes), dataset=dataset,
        folder=folder / stage, device=torch.device("cpu"),
    )  # fmt: skip
    ctx.__dict__["data"] = ClassificationData(about, split, split, split)
    ctx.dense = ctx.build  # type: ignore[method-assign]
    return ctx
