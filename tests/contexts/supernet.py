"""A small supernet: its space of structures, a sampler, a model with three operating points, and a context."""

from pathlib import Path

import torch
from torch import nn

from compressbench import models
from compressbench.config import Pair
from compressbench.method import Context
from compressbench.models.subnets import Layout
from compressbench.models.switchable import Switchable
from compressbench.supernet.config import Constraint
from compressbench.supernet.space import Sampler, Space

TINY = {"in_channels": 1, "widths": [32, 64, 64, 128], "strides": [1, 2, 1, 2]}
SMALL = {
    "resolutions": (8, 16), "resolution_step": 4, "min_width": 0.5, "samples": 2000,
    "constraints": ({"unit": 1e3, "start": 20, "stop": 200, "step": 40},),
}  # fmt: skip
ENDS = {
    "min": {"label": "smallest", "resolution": 20, "widths": [0.5] * 5, "cost": {"macs": 98_640}},
    "middle": {"label": "middle", "resolution": 24, "widths": [0.9, 0.6, 0.7, 1.0, 0.6], "cost": {"macs": 300_000}},
    "max": {"label": "largest", "resolution": 28, "widths": [1.0] * 5, "cost": {"macs": 643_808}},
}


def layout(name: str = "mobilenet_mini", **arguments: object) -> Layout:
    """Of that MobileNet; without arguments the tiny one, or the papers'."""
    with torch.device("meta"):
        return Layout(models.build(name, **(arguments or (TINY if name == "mobilenet_mini" else {}))))


def switchable() -> Switchable:
    """The tiny network with the operating points `ENDS` and batch norms that do something."""
    torch.manual_seed(0)
    model = models.build("switchable", network={"architecture": "mobilenet_mini", "arguments": TINY}, points=ENDS)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model


def space() -> Space:
    return Space(layout(), 20, 28, 4, 0.5)


def sampler(seed: int = 0, samples: int = 4000) -> Sampler:
    chosen = space()
    constraint = Constraint(start=100, stop=650, step=50, unit=1e3)
    return Sampler(chosen, [constraint], {"macs": chosen.layout.macs}, samples, torch.Generator().manual_seed(seed))


def supernet_context(data_root: Path, folder: Path) -> Context:
    """Two epochs of four steps of the tiny network on the digits."""
    recipe = {"epochs": 2, "batch_size": 64, "steps_per_epoch": 4, "lr": 0.1, "nesterov": True, "weight_decay": 1e-4}
    pair = Pair.model_validate(
        {"architecture": "mobilenet_mini", "arguments": TINY, "scratch": recipe, "pretrain": recipe, "finetune": recipe}
    )
    return Context(
        root=data_root, stage="compress", seed=0, pair=pair, dataset="digits", folder=folder, device=torch.device("cpu")
    )
