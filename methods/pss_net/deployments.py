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

SIDES, WIDTHS = (128, 224), (0.75, 1.0)  # of the published space, the smallest and the largest
SIDE_STEP, WIDTH_STEP = 8, 0.001
TOLERANCE = 0.01  # of the target
BUDGETS = {  # the published ones, in millions
    "MobileNet-V1": (107, 126, 273, 310, 343, 375, 443, 496, 555),
    "MobileNet-V2": (69, 84, 134, 163, 203, 241, 277, 301),
}
PUBLISHED = "budgets of {} ms on a processor without a name, for structures that are not published"
CLAIMS = {"MobileNet-V1": PUBLISHED.format("11 to 32"), "MobileNet-V2": PUBLISHED.format("16 to 42")}
NOTE = "in PyTorch, another structure is other views of the same weights; a compiled runtime prepares it anew"


@dataclass(frozen=True)
class EvenSubnet:
    """A structure with so many million multiply-accumulates, cut out of the supernet: one share for all widths.

    Of those within the tolerance, the one whose side and width are about equally far between smallest and largest.
    """

    target: int

    def __call__(self, model: Network) -> nn.Module:
        return self.supernet(model).at("point")

    def supernet(self, model: Network) -> Switchable:
        """The network with two structures: `point`, and `full`."""
        layout = Layout(model)
        side, width = self.chosen(layout)
        points = {
            name: {"label": "", "resolution": resolution, "widths": [share] * layout.stages, "cost": {}}
            for name, resolution, share in (("point", side, width), ("full", SIDES[1], WIDTHS[1]))
        }
        network = {"architecture": model.spec.architecture, "arguments": dict(model.spec.arguments)}
        return network_of(models.build("switchable", network=network, points=points), Switchable)

    def chosen(self, layout: Layout) -> tuple[int, float]:
        """(side of the image, share of the widths)."""
        sides = torch.arange(SIDES[0], SIDES[1] + 1, SIDE_STEP)
        shares = torch.arange(WIDTHS[0], WIDTHS[1] + WIDTH_STEP / 2, WIDTH_STEP, dtype=torch.float64)
        every_side, every_share = sides.repeat_interleave(len(shares)), shares.repeat(len(sides))
        found = layout.macs(every_side, every_share[:, None].expand(-1, layout.stages))
        error = (found - 1e6 * self.target).abs() / (1e6 * self.target)
        positions = [(grid - grid.min()) / (grid.max() - grid.min()) for grid in (every_side, every_share)]
        uneven = (positions[0] - positions[1]).abs()
        uneven[error > max(TOLERANCE, float(error.min()))] = torch.inf
        best = int(uneven.argmin())
        return int(every_side[best]), round(float(every_share[best]), 3)


@dataclass(frozen=True)
class Switch:
    """For `Deployment.switch`: from one of the two structures to the other, until its network is ready, in PyTorch."""

    subnet: EvenSubnet

    def __call__(self, model: Network) -> Callable[[], nn.Module]:
        supernet, points = self.subnet.supernet(model), cycle(("full", "point"))
        return lambda: supernet.at(next(points))


def deployments() -> list[Deployment]:
    """A structure of every published budget."""
    return [
        Deployment(
            NETWORKS[name],
            f"{target} MMACs",
            EvenSubnet(target),
            FLOAT,
            representative=(name, target) == ("MobileNet-V1", 273),
            published=CLAIMS[name],
            note=NOTE,
            switch=Switch(EvenSubnet(target)),
        )
        for name, targets in BUDGETS.items()
        for target in targets
    ]
