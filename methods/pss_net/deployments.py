"""A structure of every published budget in multiply-accumulates; the structures that were found are not published."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import nn

from compressbench import models
from compressbench.method import FLOAT, Deployment
from compressbench.models import Network
from compressbench.models.published import NETWORKS
from compressbench.models.structure import network_of
from compressbench.models.subnets import Layout
from compressbench.models.switchable import Switchable
from compressbench.supernet.config import Constraint
from compressbench.supernet.space import Budget, Sampler, Space

SAMPLES = 20_000
SIDES, SIDE_STEP, LEAST_WIDTH = (128, 224), 8, 0.75
BUDGETS = {  # the published ones, in millions, to the nearest of the pools
    "MobileNet-V1": (Constraint(start=110, stop=570, step=10), (120, 270, 310, 340, 370, 440, 500, 550)),
    "MobileNet-V2": (Constraint(start=70, stop=300, step=10), (80, 130, 160, 200, 240, 280)),
}


PUBLISHED = "budgets of {} ms on a processor without a name, for structures that are not published"
CLAIMS = {"MobileNet-V1": PUBLISHED.format("11 to 32"), "MobileNet-V2": PUBLISHED.format("16 to 42")}
NOTE = "in PyTorch, another structure is other views of the same weights; a compiled runtime prepares it anew"


@dataclass(frozen=True)
class RandomSubnet:
    """A random structure of the published space with this many million multiply-accumulates, cut out of the supernet."""

    network: str
    target: int

    def __call__(self, model: Network) -> nn.Module:
        return self.supernet(model).at("point")

    def supernet(self, model: Network) -> Switchable:
        """The network with two structures: `point`, and `full`."""
        constraint, _ = BUDGETS[self.network]
        space = Space(Layout(model), *SIDES, SIDE_STEP, LEAST_WIDTH)
        sampler = Sampler(space, [constraint], {"macs": space.layout.macs}, SAMPLES, torch.default_generator)
        subnet = sampler.draw(Budget(constraint, self.target), torch.default_generator)
        widths = list(subnet.widths)
        point = {"label": "", "resolution": subnet.resolution, "widths": widths, "cost": {}}
        full = {"label": "", "resolution": SIDES[1], "widths": [1.0] * len(widths), "cost": {}}
        network = {"architecture": model.spec.architecture, "arguments": dict(model.spec.arguments)}
        built = models.build("switchable", network=network, points={"point": point, "full": full})
        return network_of(built, Switchable)


@dataclass(frozen=True)
class Switch:
    """For `Deployment.switch`: from one of the two structures to the other, until its network is ready, in PyTorch."""

    subnet: RandomSubnet

    def __call__(self, model: Network) -> Callable[[], nn.Module]:
        supernet, points = self.subnet.supernet(model), cycle(("full", "point"))
        return lambda: supernet.at(next(points))


def deployments() -> list[Deployment]:
    """A structure of every published budget."""
    return [
        Deployment(
            NETWORKS[name],
            f"{target} MMACs",
            RandomSubnet(name, target),
            FLOAT,
            representative=(name, target) == ("MobileNet-V1", 270),
            published=CLAIMS[name],
            note=NOTE,
            switch=Switch(RandomSubnet(name, target)),
        )
        for name, (_, targets) in BUDGETS.items()
        for target in targets
    ]
