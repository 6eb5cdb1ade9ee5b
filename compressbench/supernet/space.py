"""The structures that a supernet has, and structures of a given budget by conditional sampling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from compressbench.errors import UserError
from compressbench.models.subnets import Layout, Subnet
from compressbench.supernet.config import Constraint

CostModel = Callable[[Tensor, Tensor], Tensor]
"""(resolutions int64 [N], multipliers float64 [N, S]) -> cost [N]."""
BATCH = 64  # structures sampled at a time until one has the target
ATTEMPTS = 20_000


@dataclass(frozen=True)
class Space:
    """The structures of a network."""

    layout: Layout
    low: int
    high: int
    step: int
    min_width: float

    @property
    def largest(self) -> Subnet:
        return Subnet(self.high, (1.0,) * self.layout.stages)

    @property
    def smallest(self) -> Subnet:
        return Subnet(self.low, (self.min_width,) * self.layout.stages)

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Resolutions int64 [N]: U(low, high) rounded to multiples of the step; multipliers float64 [N, S]: three decimals."""
        draw = torch.rand(count, 1 + self.layout.stages, generator=generator, dtype=torch.float64)
        side = self.low + (self.high - self.low) * draw[:, 0]
        widths = self.min_width + (1 - self.min_width) * draw[:, 1:]
        return (side / self.step).round().long() * self.step, (widths * 1000).round() / 1000


class Budget(NamedTuple):
    """A pool's target."""

    constraint: Constraint
    target: int


class Sampler:
    """Structures of a given budget: every coordinate on its own, as frequent as among uniform structures of that target.

    `budgets` are the targets that any of the uniform structures has.
    """

    def __init__(
        self,
        space: Space,
        constraints: Sequence[Constraint],
        costs: Mapping[str, CostModel],
        samples: int,
        generator: torch.Generator,
    ):
        self.costs = costs
        resolutions, widths = space.sample(samples, generator)
        self.tables: dict[Budget, tuple[Tensor, Tensor]] = {}
        for constraint in constraints:
            if constraint.resource not in costs:
                raise UserError(
                    f"a constraint on {constraint.resource} needs a table of it; measure one or name its file."
                )
            targets = constraint.target(costs[constraint.resource](resolutions, widths))
            for target in constraint.targets:
                if len(rows := (targets == target).nonzero()[:, 0]):
                    self.tables[Budget(constraint, target)] = resolutions[rows], widths[rows]
        self.budgets = list(self.tables)
        if not self.budgets:
            raise UserError(
                "no sampled structure has any of the targets of the constraints; correct start, stop and step."
            )

    def draw(self, budget: Budget, generator: torch.Generator | None = None) -> Subnet:
        """A structure whose cost rounds to the target."""
        if budget not in self.tables:
            raise UserError(
                f"no structure with {budget.constraint.label(budget.target)} was sampled; remove the target."
            )
        resolutions, widths = self.tables[budget]
        columns = torch.arange(widths.shape[1])
        for _ in range(ATTEMPTS // BATCH):
            rows = torch.randint(len(widths), (BATCH, 1 + widths.shape[1]), generator=generator)
            side, multipliers = resolutions[rows[:, 0]], widths[rows[:, 1:], columns]
            targets = budget.constraint.target(self.costs[budget.constraint.resource](side, multipliers))
            if len(hits := (targets == budget.target).nonzero()):
                return Subnet(int(side[hits[0, 0]]), tuple(multipliers[hits[0, 0]].tolist()))
        raise UserError(
            f"no structure with {budget.constraint.label(budget.target)} in {ATTEMPTS} draws; use wider steps."
        )
