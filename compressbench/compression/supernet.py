"""Training one network whose subnets share weights: the space of structures, budgets, sampling, and the sandwich rule."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import models
from compressbench.compression.latency_table import LatencyTable
from compressbench.config import Frozen
from compressbench.errors import UserError
from compressbench.method import MethodConfig
from compressbench.models.subnets import Layout, Subnet, as_tensors
from compressbench.models.switchable import Switchable

if TYPE_CHECKING:
    from compressbench.stages.context import Context

Resource = Literal["macs", "latency"]
CostModel = Callable[[Tensor, Tensor], Tensor]
"""(resolutions int64 [N], multipliers float64 [N, S]) -> cost [N]."""
BATCH = 64  # structures that are drawn at once until one has the target
ATTEMPTS = 20_000


class Constraint(Frozen):
    """Budgets of one resource: a pool every `step` units, strictly between `start` and `stop`."""

    resource: Resource = "macs"
    start: int = Field(ge=0)
    stop: int
    step: int = Field(gt=0)
    unit: float = Field(
        default=1e6, gt=0, description="of start, stop and step: in multiply-accumulates, or microseconds"
    )

    device: Literal["cpu", "gpu"] = Field(default="cpu", description="whose latency it is, for a budget in latency")

    @model_validator(mode="after")
    def _ordered(self) -> "Constraint":
        if self.start >= self.stop:
            raise ValueError("start must be less than stop")
        return self

    @property
    def targets(self) -> range:
        """start + step, ..., stop - step."""
        return range(self.start + self.step, self.stop - self.step + 1, self.step)

    def target(self, cost: Tensor) -> Tensor:
        """int64 [N]: T(c) = int(round((m(c) - o) / step) * step + o), o = start mod step; ties go to even multiples.

        In double precision, as single precision takes some costs just beside a tie for one.
        """
        offset = self.start % self.step
        return ((cost.double() / self.unit - offset) / self.step).round().long() * self.step + offset

    def name(self, target: int) -> str:
        """Of the operating point."""
        return f"{'m' if self.resource == 'macs' else 'us'}{target}"

    def label(self, target: int) -> str:
        """The budget in words."""
        if self.resource == "latency":
            return f"{target * self.unit:g} µs"
        prefix = {1e3: "k", 1e6: "M", 1e9: "G"}.get(self.unit)
        return f"{target} {prefix}MACs" if prefix else f"{target * self.unit:g} MACs"


class SupernetConfig(MethodConfig):
    """The space of structures, and the budgets."""

    resolutions: tuple[int, int] = Field((128, 224), description="smallest and largest side of the input")
    resolution_step: int = Field(8, ge=1)
    min_width: float = Field(0.75, gt=0, le=1, description="the smallest width multiplier; the largest is 1")
    constraints: tuple[Constraint, ...] = Field(min_length=1)
    samples: int = Field(100_000, ge=1, description="structures drawn before the training, for the conditional sampler")
    recalibration_batches: int = Field(
        9, ge=1, description="training batches behind the statistics of a deployed structure"
    )

    @model_validator(mode="after")
    def _multiples(self) -> "SupernetConfig":
        low, high = self.resolutions
        if not 0 < low <= high or low % self.resolution_step or high % self.resolution_step:
            raise ValueError("resolutions must be two ascending multiples of resolution_step")
        if len(self.timed_devices) > 1:
            raise ValueError("budgets in latency must be of one device; train a supernet for each")
        return self

    @property
    def timed_devices(self) -> set[str]:
        """Whose latencies the budgets are; empty without budgets in latency."""
        return {constraint.device for constraint in self.constraints if constraint.resource == "latency"}


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


@dataclass
class Supernet:
    """What a method that trains a supernet starts from. The model has two points: the smallest and the largest network."""

    ctx: "Context"
    config: SupernetConfig
    space: Space
    costs: dict[str, CostModel]
    sampler: Sampler
    model: Switchable

    def train(self, loss: Callable[[nn.Module, Any], Tensor], trained: nn.Module | None = None, **options: Any) -> None:
        """The recipe `scratch` on `loss(trained, batch)`; `trained` has the model in it, by default it is the model.

        Every epoch validates the largest and the smallest network with fresh statistics.
        """
        recipe = self.ctx.recipes.scratch
        optimizer = self.ctx.optimizer(recipe, decayed(self.model, recipe.weight_decay))
        self.ctx.fit(
            trained or self.model, recipe, loss=loss, optimizers=[optimizer], validate=self._validate, **options
        )

    def _validate(self, _: nn.Module) -> dict[str, float]:
        return {"validation_top1": self.recalibrated("max"), "validation_top1_smallest": self.recalibrated("min")}

    def recalibrated(self, point: str) -> float:
        """Validation accuracy (%) of a point of the model after its statistics were computed; both change the model."""
        network = self.ctx.recalibrate(self.model.at(point), self.config.recalibration_batches)
        return self.ctx.validate(network).get("validation_top1", math.nan)

    def record_shared_statistics(self) -> None:
        """Validation accuracy of the two ends with the running statistics of the training, and with their own."""
        for name, point, subnet in (
            ("smallest", "min", self.space.smallest),
            ("largest", "max", self.space.largest),
        ):
            shared = self.ctx.validate(self.model.switch(subnet)).get("validation_top1", math.nan)
            self.ctx.record(f"{name}_validation_top1_shared_statistics", shared)
            self.ctx.record(f"{name}_validation_top1", self.recalibrated(point))

    def record_mean(self, name: str, model: Switchable) -> None:
        """Mean validation accuracy over the chosen structures of a deployed model."""
        found = [self.ctx.validate(model.at(p)).get("validation_top1", math.nan) for p in list(model.points)[1:-1]]
        self.ctx.record(f"{name}_structures_validation_top1", sum(found) / max(1, len(found)))

    def deploy(self, chosen: Mapping[Budget, Subnet]) -> Switchable:
        """The trained weights with an operating point, with statistics of its own, for every chosen structure."""
        model = switchable(self.ctx, self.points(chosen)).to(self.ctx.device)
        own, trained = model.state_dict(), self.model.state_dict()
        statistics = ("means", "variances")
        model.load_state_dict({k: own[k] if k.endswith(statistics) else v for k, v in trained.items()})
        for point in model.points:
            self.ctx.recalibrate(model.at(point), self.config.recalibration_batches)
        return model.eval()

    def points(self, chosen: Mapping[Budget, Subnet]) -> dict[str, dict[str, Any]]:
        """Operating points: the smallest network, the chosen ones, the largest."""
        named = {
            "min": ("smallest", self.space.smallest),
            **{b.constraint.name(b.target): (b.constraint.label(b.target), subnet) for b, subnet in chosen.items()},
            "max": ("largest", self.space.largest),
        }
        costs = {
            name: model(*as_tensors([s for _, s in named.values()])).tolist() for name, model in self.costs.items()
        }
        return {
            name: {
                "label": label,
                "resolution": subnet.resolution,
                "widths": list(subnet.widths),
                "cost": {resource: values[i] for resource, values in costs.items()},
            }
            for i, (name, (label, subnet)) in enumerate(named.items())
        }

    def by_lot(self) -> dict[Budget, Subnet]:
        """A fresh structure of every budget: the same ones in every method of the same space and seed."""
        generator = self.ctx.generator("structures by lot")
        return {budget: self.sampler.draw(budget, generator) for budget in self.sampler.budgets}


def prepare(ctx: "Context", config: SupernetConfig, table: LatencyTable | None = None) -> Supernet:
    """The space, its conditional sampler and an untrained model.

    Raises:
        UserError: no sampled structure has any target, or a constraint on the latency comes without a table.
    """
    layout = Layout(ctx.build())
    space = Space(layout, *config.resolutions, config.resolution_step, config.min_width)
    costs: dict[str, CostModel] = {"macs": layout.macs}
    if table is not None:
        costs["latency"] = lambda resolutions, widths: table(layout.blocks(resolutions, widths))
    sampler = Sampler(space, config.constraints, costs, config.samples, ctx.generator("uniform structures"))
    supernet = Supernet(ctx, config, space, costs, sampler, None)  # type: ignore[arg-type]
    supernet.model = switchable(ctx, supernet.points({})).to(ctx.device)
    return supernet


def switchable(ctx: "Context", points: Mapping[str, Any], architecture: str = "switchable") -> Any:
    """A freshly initialised model with these operating points, of the pair's network; the same seed gives the same weights."""
    network = {"architecture": ctx.spec.architecture, "arguments": ctx.spec.arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.generator("initial weights").initial_seed())
        return models.build(architecture, network=network, points=points)


def sandwich(model: Switchable, space: Space, middle: Subnet, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """CE(z*, y) + KL(q ‖ softmax z_c) + KL(q ‖ softmax z_min), q = softmax(stop_gradient(z*)); and the middle's logits.

    Logits [B, classes]; the divergences are summed over classes and averaged over the batch.
    """
    largest = model.switch(space.largest)(images)
    target = largest.detach().log_softmax(1)
    between = model.switch(middle)(images)
    smallest = model.switch(space.smallest)(images)
    divergences = [
        F.kl_div(student.log_softmax(1), target, reduction="batchmean", log_target=True)
        for student in (between, smallest)
    ]
    return F.cross_entropy(largest, labels) + sum(divergences), between


def decayed(model: nn.Module, weight_decay: float) -> Iterable[dict[str, Any]]:
    """Parameter groups: weight decay on ordinary convolutions and linear weights; none on depthwise ones, norms and biases."""
    weights = {
        id(layer.weight)
        for layer in model.modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    }
    groups: tuple[list[Tensor], list[Tensor]] = [], []
    for parameter in model.parameters():
        groups[id(parameter) in weights].append(parameter)
    return [{"params": groups[1], "weight_decay": weight_decay}, {"params": groups[0], "weight_decay": 0.0}]
