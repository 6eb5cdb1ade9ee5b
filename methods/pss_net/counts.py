"""Numbers that need no training: costs of structures, sizes of spaces, the annealing."""

import math

import torch

from compressbench import accounting, models
from compressbench.method import PublishedCount
from compressbench.models.structure import network_of
from compressbench.models.subnets import Layout, rounded_channels
from compressbench.models.switchable import Switchable
from compressbench.supernet.config import Constraint
from methods.pss_net.pools import annealed

NETWORKS = {
    "mobilenet_v1": Constraint(start=110, stop=570, step=10),
    "mobilenet_v2": Constraint(start=70, stop=300, step=10),
}
"""The published networks and their constraint in millions of multiply-accumulates."""
STRUCTURES = {
    "max": (224, 1.0),
    "min": (128, 0.75),
    "w100_r128": (128, 1.0),
    "w75_r224": (224, 0.75),
    "w90_r192": (192, 0.9),
}
EPOCHS = 250


def network_at(name: str, resolution: int, width: float) -> torch.nn.Module:
    """The network of one uniform structure, on the meta device."""
    with torch.device("meta"):
        network = {"architecture": name, "arguments": {}}
        stages = Layout(models.build(name)).stages
        point = {"label": "", "resolution": resolution, "widths": [width] * stages, "cost": {}}
        full = point | {"resolution": 224}
        model = models.build("switchable", network=network, points={"point": point, "full": full})
        return network_of(model, Switchable).at("point")


def distinct_networks(layout: Layout) -> int:
    """Structures of the published space that differ in a channel or the resolution."""
    widths = torch.arange(750, 1001, dtype=torch.float64) / 1000
    options = {p.stage: len(rounded_channels(p.base * widths).unique()) for p in layout.parts if p.stage is not None}
    return 13 * math.prod(options.values())


def recompute() -> list[PublishedCount]:
    """The published structures' costs, and what follows from the space and the schedule."""
    recomputed = []
    for name, constraint in NETWORKS.items():
        with torch.device("meta"):
            layout = Layout(models.build(name))
        for setting, (resolution, width) in STRUCTURES.items():
            network = network_at(name, resolution, width)
            flops = accounting.flops(network, (3, 224, 224), "macs_with_pool")
            params = sum(parameter.numel() for parameter in network.parameters())
            recomputed += [
                PublishedCount(name, setting, "flops", flops),
                PublishedCount(name, setting, "params", params),
            ]
        recomputed.append(PublishedCount(name, "space", "networks", distinct_networks(layout)))
        recomputed.append(PublishedCount(name, "flops", "pools", len(constraint.targets)))
    for epoch in (0, 62, 125, 200, 249):
        recomputed.append(PublishedCount("any", f"epoch_{epoch}", "exploration", annealed(1.0, 0.01, epoch, EPOCHS)))
    return recomputed
