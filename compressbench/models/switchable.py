"""One set of weights, many networks: layers that use their leading channels, and the network of each structure."""

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressbench.errors import UserError
from compressbench.models.structure import Classifier, geometry
from compressbench.models.subnets import Key, Layout, Subnet, block_of

Point = Mapping[str, Any]
"""An operating point: {"label", "resolution", "widths", "cost": {resource: value}}."""
Channels = Mapping[str, tuple[int, int]]
"""Layer -> (inputs, outputs)."""
MOBILENET: Mapping[str, Any] = MappingProxyType({"architecture": "mobilenet_v1", "arguments": {}})
LARGEST: Mapping[str, Point] = MappingProxyType(
    {"max": {"label": "largest", "resolution": 224, "widths": [1.0] * 14, "cost": {}}}
)


class SlicedConv2d(nn.Conv2d):
    """Uses the leading `active` outputs and as many inputs as it is given; depthwise: as many channels as it is given."""

    active: int

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, active, H', W']."""
        inputs = x.shape[1]
        if self.groups > 1:
            return F.conv2d(x, self.weight[:inputs], None, self.stride, self.padding, groups=inputs)
        return F.conv2d(x, self.weight[: self.active, :inputs], None, self.stride, self.padding)


class SlicedBatchNorm2d(nn.BatchNorm2d):
    """Leading affine parameters, shared by all widths; running statistics of every operating point beside the shared ones.

    The shared statistics follow whatever mixture of widths is trained.
    """

    def __init__(self, channels: int, points: int):
        super().__init__(channels)
        self.register_buffer("means", torch.zeros(points, channels))
        self.register_buffer("variances", torch.ones(points, channels))
        self.point: int | None = None
        """Whose statistics evaluation takes; None: the shared ones."""

    means: Tensor
    variances: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> same shape."""
        c = x.shape[1]
        mean, variance = self.statistics()
        if self.training:
            mean, variance = self.running_mean, self.running_var
        return F.batch_norm(
            x, mean[:c], variance[:c], self.weight[:c], self.bias[:c], self.training, self.momentum or 0.0, self.eps
        )

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance [channels] of the point."""
        if self.point is None:
            return self.running_mean, self.running_var
        return self.means[self.point], self.variances[self.point]


class SlicedLinear(nn.Linear):
    """Uses its leading inputs, as many as it is given, and the full bias."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        return F.linear(x, self.weight[:, : x.shape[1]], self.bias)


class Resized(nn.Module):
    """A network behind a bilinear resize with aligned corners."""

    def __init__(self, network: nn.Module, resolution: int):
        super().__init__()
        self.network, self.resolution = network, resolution

    def forward(self, images: Tensor) -> Tensor:
        """[N, c, H, W] -> logits."""
        return self.network(resize(images, self.resolution))


def resize(images: Tensor, resolution: int) -> Tensor:
    """Square images of another side, bilinear with aligned corners."""
    return F.interpolate(images, (resolution, resolution), mode="bilinear", align_corners=True)


class BudgetedNetwork(Classifier):
    """What both kinds of models with structures as operating points share."""

    def __init__(self, network: Mapping[str, Any] = MOBILENET, points: Mapping[str, Point] = LARGEST):
        super().__init__()
        from compressbench.models import build

        self.network = build(network["architecture"], **network["arguments"])
        self.layout = Layout(self.network)
        self.points = {name: dict(point) for name, point in points.items()}
        self.operating_points = {name: point["label"] for name, point in points.items()}
        for name in points:
            self.layout.of(self.subnet(name))
        self.full_resolution = max(point["resolution"] for point in points.values())

    def subnet(self, point: str) -> Subnet:
        """The structure of an operating point."""
        if point not in self.points:
            raise UserError(f"unknown operating point {point!r}; the model has: {', '.join(self.points)}.")
        return Subnet(self.points[point]["resolution"], tuple(self.points[point]["widths"]))

    def within(self, budget: float, resource: str = "macs") -> str:
        """The operating point that spends most of `budget`; UserError when even the smallest one costs more."""
        costs = {name: point["cost"][resource] for name, point in self.points.items() if resource in point["cost"]}
        if not costs:
            raise UserError(f"the costs of this model's operating points are not known in {resource!r}.")
        affordable = {name: cost for name, cost in costs.items() if cost <= budget}
        if not affordable:
            raise UserError(
                f"no operating point costs at most {budget:g} {resource}: the least is {min(costs.values()):g}."
            )
        return max(affordable, key=affordable.__getitem__)

    def at(self, point: str) -> nn.Module:
        """The network of an operating point."""
        raise NotImplementedError

    def blocks(self, point: str) -> Sequence[Key]:
        """The rows of a latency table whose sum predicts this operating point."""
        return [block.table_keys()[0] for block in self.layout.of(self.subnet(point))]

    def block(self, key: Key) -> tuple[nn.Module, Tensor]:
        """One block, untrained, and an input."""
        return block_of(key, self.layout.activation)

    def _fixed(self, network: nn.Module, resolution: int) -> nn.Module:
        return network if resolution == self.full_resolution else Resized(network, resolution)


class Switchable(BudgetedNetwork):
    """A MobileNet whose subnets share its weights; `points` have batch-norm statistics of their own.

    `network`: {"architecture", "arguments"} of the network at full width. The largest resolution among the points is
    that of the images. `switch` chooses what the forward pass runs; `at` returns a network with fixed widths.
    """

    def __init__(self, network: Mapping[str, Any] = MOBILENET, points: Mapping[str, Point] = LARGEST):
        super().__init__(network, points)
        for name, module in list(self.network.named_modules()):
            if (sliced := _sliced(module, len(points))) is not None:
                self.network.set_submodule(name, sliced)
        initialise(self.network)
        self._norms = [m for m in self.network.modules() if isinstance(m, SlicedBatchNorm2d)]
        self.resolution = self.full_resolution
        self.switch(list(points)[-1])

    def switch(self, to: str | Subnet) -> "Switchable":
        """Run this operating point, or this structure with the shared statistics, from now on; returns the model."""
        subnet = self.subnet(to) if isinstance(to, str) else to
        for name, (_, outputs) in self.layout.channels(subnet).items():
            layer = self.network.get_submodule(name)
            if isinstance(layer, SlicedConv2d):
                layer.active = outputs
        for norm in self._norms:
            norm.point = list(self.points).index(to) if isinstance(to, str) else None
        self.resolution = subnet.resolution
        return self

    def forward(self, images: Tensor) -> Tensor:
        """[N, c, H, W] -> logits [N, classes] of the structure that was chosen last."""
        if self.resolution != self.full_resolution:
            images = resize(images, self.resolution)
        return self.network(images)

    def at(self, point: str) -> nn.Module:
        """The network of an operating point. Its weights and statistics are views into the model's."""
        subnet = self.subnet(point)
        channels = self.layout.channels(subnet)
        index = list(self.points).index(point)
        return self._fixed(_narrow(self.network, channels, index), subnet.resolution).eval()


class SeparateSubnets(BudgetedNetwork):
    """The same operating points, each with a network of its own."""

    def __init__(self, network: Mapping[str, Any] = MOBILENET, points: Mapping[str, Point] = LARGEST):
        super().__init__(network, points)
        full = self.network
        del self.network
        self.networks = nn.ModuleDict()
        for name in points:
            subnet = self.subnet(name)
            own = copy.deepcopy(_narrow(full, self.layout.channels(subnet), None))
            initialise(own)
            self.networks[name] = self._fixed(own, subnet.resolution)

    def at(self, point: str) -> nn.Module:
        """The network of an operating point."""
        self.subnet(point)
        return self.networks[point].eval()


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """conv ~ N(0, 2 / (k k C_out)), also where it is depthwise; linear ~ N(0, 0.01²), biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0, (2 / fan_out) ** 0.5)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)


def _sliced(module: nn.Module, points: int) -> nn.Module | None:
    """The switchable layer in the place of a plain one."""
    if type(module) is nn.Conv2d:
        sizes = (module.in_channels, module.out_channels, *geometry(module)[:3])
        layer = SlicedConv2d(*sizes, groups=module.groups, bias=False)
        layer.active = module.out_channels
        return layer
    if type(module) is nn.BatchNorm2d:
        return SlicedBatchNorm2d(module.num_features, points)
    return SlicedLinear(module.in_features, module.out_features) if type(module) is nn.Linear else None


def _narrow(module: nn.Module, channels: Channels, point: int | None, name: str = "") -> nn.Module:
    """A copy of a module tree with plain layers of the widths in `channels`, whose weights are views.

    Batch norms get the statistics of `point`, also as views; without one, fresh statistics.
    """
    if isinstance(module, nn.Conv2d):
        inputs, outputs = channels[name]
        depthwise = module.groups > 1
        sizes = (inputs, outputs, *geometry(module)[:3])
        conv = nn.Conv2d(*sizes, groups=inputs if depthwise else 1, bias=False, device="meta")
        conv.weight = nn.Parameter(module.weight[:outputs] if depthwise else module.weight[:outputs, :inputs])
        return conv
    if isinstance(module, nn.Linear):
        linear = nn.Linear(channels[name][0], module.out_features, device="meta")
        linear.weight, linear.bias = nn.Parameter(module.weight[:, : linear.in_features]), nn.Parameter(module.bias[:])
        return linear
    if isinstance(module, nn.BatchNorm2d):
        width = channels[name.removesuffix("bn") + "conv"][1]
        norm = nn.BatchNorm2d(width)
        norm.weight, norm.bias = nn.Parameter(module.weight[:width]), nn.Parameter(module.bias[:width])
        if isinstance(module, SlicedBatchNorm2d) and point is not None:
            norm.running_mean, norm.running_var = module.means[point, :width], module.variances[point, :width]
        return norm
    twin = copy.copy(module)
    twin._modules = {
        child: _narrow(part, channels, point, f"{name}.{child}".lstrip(".")) for child, part in module.named_children()
    }
    return twin


ARCHITECTURES = {"separate_subnets": SeparateSubnets, "switchable": Switchable}
