"""Contexts of class-incremental learning: digits in sessions, and random images for the networks of the papers."""

from pathlib import Path

import torch

from compressbench import data
from compressbench.config import Pair
from compressbench.data.classification import ClassificationData, Split
from compressbench.data.datasets import Protocol, info
from compressbench.data.incremental import in_sessions
from compressbench.method import Context
from compressbench.plan import Plan, Run
from tests.conftest import ROOT
from tests.contexts import context_of

RECIPE = {"epochs": 3, "batch_size": 64, "lr": 0.1}
GROWING = {
    "backbone": "plain",
    "backbone_arguments": {"in_channels": 1, "widths": [8, 12], "strides": [2, 2]},
    "nodes": 10,
    "sessions": [6],
}


def session_context(
    data_root: Path, folder: Path, stage: str = "compress", seed: int = 0, **finetune: object
) -> Context:
    """A context of digits_sessions with an (untrained) network of the base session in `folder`/dense."""
    session = {"epochs": 25, "batch_size": 128, "lr": 0.005, "schedule": "constant"} | finetune
    pair = Pair.model_validate(
        {"architecture": "growing", "arguments": GROWING, "scratch": RECIPE, "pretrain": RECIPE, "finetune": session}
    )
    return context_of(pair, "digits_sessions", data_root, folder, stage, seed)


def full_size_session_context(folder: Path, dataset: str, method: str, setting: str = "shots5") -> Context:
    """The network of config/paper.yaml, one step per session, on a random image per class and shot."""
    run = Run("paper", dataset, "resnet18_growing", method, setting, 0)
    pair = Plan(ROOT, "paper", [method]).pair(run)
    short = pair.finetune.model_copy(update={"epochs": 1})
    about, protocol = info(dataset), data.protocol(dataset)
    random = torch.Generator().manual_seed(0)

    def split(labels: torch.Tensor) -> Split:
        return Split(torch.randn(len(labels), *about.image_shape, generator=random), labels)

    one, none = split(torch.arange(about.classes)), split(torch.arange(0))
    source = ClassificationData(about, one, none, Split(one.images[:2], one.labels[:2]))
    small = Protocol(protocol.session_len, shots=1, shuffled=protocol.shuffled)
    ctx = Context(
        root=folder, stage="compress", seed=0, pair=pair.model_copy(update={"finetune": short}), dataset=dataset,
        folder=folder / "compress", device=torch.device("cpu"),
    )  # fmt: skip
    ctx.__dict__["data"] = in_sessions(source, small, 0, about)
    ctx.dense = ctx.build  # type: ignore[method-assign]
    return ctx
