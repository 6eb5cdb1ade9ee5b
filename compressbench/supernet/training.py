"""Training of one network whose subnets share weights: the common start, and the sandwich rule."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench import models
from compressbench.method import Context
from compressbench.models.structure import network_of
from compressbench.models.subnets import Layout, Subnet, as_tensors
from compressbench.models.switchable import BudgetedNetwork, Switchable
from compressbench.supernet.config import SupernetConfig
from compressbench.supernet.latency_table import LatencyTable
from compressbench.supernet.space import Budget, CostModel, Sampler, Space


@dataclass
class Supernet:
    """What a method that trains a supernet starts from. The model has two points: the smallest and the largest network."""

    ctx: Context
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
        ends = {"validation_top1": self.recalibrated("max"), "validation_top1_smallest": self.recalibrated("min")}
        return {name: value for name, found in ends.items() for value in found}

    def recalibrated(self, point: str) -> list[float]:
        """As `accuracy`, of a point of the model after its statistics were computed; both change the model."""
        return self.accuracy(self.ctx.recalibrate(self.model.at(point), self.config.recalibration_batches))

    def accuracy(self, network: nn.Module) -> list[float]:
        """Validation accuracy (%); empty where no images are held out."""
        return list(self.ctx.validate(network).values())

    def record_shared_statistics(self) -> None:
        """Validation accuracy of the two ends with the running statistics of the training, and with their own."""
        for name, point, subnet in (
            ("smallest", "min", self.space.smallest),
            ("largest", "max", self.space.largest),
        ):
            for value in self.accuracy(self.model.switch(subnet)):
                self.ctx.record(f"{name}_validation_top1_shared_statistics", value)
            for value in self.recalibrated(point):
                self.ctx.record(f"{name}_validation_top1", value)

    def record_mean(self, name: str, model: Switchable) -> None:
        """Mean validation accuracy over the chosen structures of a deployed model."""
        points = list(model.points)[1:-1]
        found = [value for point in points for value in self.accuracy(model.at(point))]
        if found:
            self.ctx.record(f"{name}_structures_validation_top1", sum(found) / len(found))

    def deploy(self, chosen: Mapping[Budget, Subnet]) -> Switchable:
        """The trained weights with an operating point, with statistics of its own, for every chosen structure."""
        model = network_of(budgeted(self.ctx, self.points(chosen)), Switchable).to(self.ctx.device)
        own, trained = model.state_dict(), self.model.state_dict()
        statistics = ("means", "variances")
        model.load_state_dict({k: own[k] if k.endswith(statistics) else v for k, v in trained.items()})
        for point in model.points:
            self.ctx.recalibrate(model.at(point), self.config.recalibration_batches)
        return model.eval()

    def points(self, chosen: Mapping[Budget, Subnet]) -> dict[str, dict[str, Any]]:
        """`operating_points` of these structures."""
        return operating_points(self.space, self.costs, chosen)

    def random_structures(self) -> dict[Budget, Subnet]:
        """A fresh structure of every budget: the same ones in every method of the same space and seed."""
        generator = self.ctx.generator("structures by lot")
        return {budget: self.sampler.draw(budget, generator) for budget in self.sampler.budgets}


def prepare(ctx: Context, config: SupernetConfig, table: LatencyTable | None = None) -> Supernet:
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
    model = network_of(budgeted(ctx, operating_points(space, costs, {})), Switchable).to(ctx.device)
    return Supernet(ctx, config, space, costs, sampler, model)


def operating_points(
    space: Space, costs: Mapping[str, CostModel], chosen: Mapping[Budget, Subnet]
) -> dict[str, dict[str, Any]]:
    """Operating points: the smallest network, the chosen ones, the largest."""
    named = {
        "min": ("smallest", space.smallest),
        **{b.constraint.name(b.target): (b.constraint.label(b.target), subnet) for b, subnet in chosen.items()},
        "max": ("largest", space.largest),
    }
    counted = {name: cost(*as_tensors([s for _, s in named.values()])).tolist() for name, cost in costs.items()}
    return {
        name: {
            "label": label,
            "resolution": subnet.resolution,
            "widths": list(subnet.widths),
            "cost": {resource: values[i] for resource, values in counted.items()},
        }
        for i, (name, (label, subnet)) in enumerate(named.items())
    }


def budgeted(ctx: Context, points: Mapping[str, Any], architecture: str = "switchable") -> BudgetedNetwork:
    """A freshly initialised model with these operating points, of the pair's network; the same seed gives the same weights."""
    network = {"architecture": ctx.spec.architecture, "arguments": ctx.spec.arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.generator("initial weights").initial_seed())
        return network_of(models.build(architecture, network=network, points=points), BudgetedNetwork)


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
