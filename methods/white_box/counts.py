"""Counts of the published networks: they need no training."""

from collections.abc import Mapping
from dataclasses import dataclass

from compressbench import accounting
from compressbench.method import PublishedCount
from compressbench.models import Network
from compressbench.models.published import PublishedNetwork
from compressbench.pruning.filters import producer_weights
from methods.white_box.layout import Layout, lay_out
from methods.white_box.voting import FlopsAtWidths, floor_width

MIN_PRESERVE = 0.3


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A network of the paper, how its FLOPs are counted, and the published cuts {setting: %}."""

    convention: str
    cuts: Mapping[str, float]
    layers: tuple[str, ...] = ("*",)
    outer: bool = False
    last_widths: tuple[int, ...] = ()
    """Widths of the layer of random filters at which the floor is published."""

    def layout(self, network: Network) -> Layout:
        """As the authors' code has it."""
        return lay_out(network, self.layers, self.outer, draw_last=True)

    def counts(self) -> list[PublishedCount]:
        network = self.build()
        layout, flops = self.layout(network), FlopsAtWidths(network, self.shape, self.convention)
        masks = [len(network.get_parameter(f"{name}.weight")) for name in layout.names]
        counts = accounting.account(network, self.shape)
        dense = {"flops": flops({}), "macs": counts.macs, "params": counts.params}
        dense |= {"masks": len(masks), "mask_channels": sum(masks)}
        return [
            *(PublishedCount(self.name, "dense", metric, value) for metric, value in dense.items()),
            *self._floors(network, layout, flops),
            *(PublishedCount(self.name, s, "flops", flops({}) * (1 - cut / 100)) for s, cut in self.cuts.items()),
        ]

    def _floors(self, network: Network, layout: Layout, flops: FlopsAtWidths) -> list[PublishedCount]:
        """The smallest FLOPs, every voter at 30 % of its channels, and the cut (%) that they are."""
        weights = producer_weights(network, layout.voters)
        floors = {key: floor_width(len(weight), MIN_PRESERVE) for key, weight in weights.items()}
        found = []
        for width in self.last_widths or (None,):
            last = {layout.random_layer.key: width} if layout.random_layer and width is not None else {}
            setting = "floor" if width is None else f"floor_last{width}"
            found.append(PublishedCount(self.name, setting, "flops", flops(floors | last)))
            found.append(PublishedCount(self.name, setting, "macs_reduction", 100 * flops.cut(floors | last)))
        return found


_CIFAR, _IMAGENET = 32, 224
PUBLISHED = (
    Published(
        "vgg16",
        "vgg",
        {"depth": 16, "conv_bias": True},
        _CIFAR,
        "with_bn_window_pool",
        {},
        last_widths=(512, 128),
    ),
    Published("resnet56", "resnet_cifar", {"blocks": (9, 9, 9)}, _CIFAR, "with_bn", {}, outer=True),
    Published("resnet110", "resnet_cifar", {"blocks": (18, 18, 18)}, _CIFAR, "with_bn", {}, outer=True),
    Published(
        "mobilenet_v2",
        "mobilenet_v2",
        {"variant": "cifar", "classes": 10},
        _CIFAR,
        "with_bn_no_pool",
        {},
        layers=("blocks.*.expand.conv",),
        last_widths=(640,),
    ),
    Published(
        "resnet50",
        "resnet50",
        {},
        _IMAGENET,
        "with_bn_window_pool",
        {"m45": 45.6, "m63": 63.5},
        layers=("stages.*.conv1", "stages.*.conv2"),
        outer=True,
    ),
)
