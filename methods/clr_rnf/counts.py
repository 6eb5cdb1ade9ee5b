"""Counts that need no training: the dense networks, and the hand-designed structures that the authors compare with.

The learned structures are not published. FLOPs are those of the papers' counter (`with_bn`), for one CIFAR-10 or ImageNet
image; VGG and GoogLeNet end in a pool with a fixed window.
"""

from dataclasses import dataclass, field

from torch import nn

from compressbench import accounting
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork
from compressbench.pruning.deployments import Structure
from compressbench.pruning.filters import Rates, Widths, widths_from_rates


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A network of the paper, how its FLOPs are counted, and the rates of the hand-designed structure."""

    convention: str = "with_bn"
    rates: Rates = field(default_factory=dict)

    def widths(self) -> Widths:
        """The hand-designed structure."""
        return widths_from_rates(self.build(), {"*": 0} | dict(self.rates))

    def counts(self) -> list[PublishedCount]:
        """FLOPs, MACs, parameters and filters of the dense network; FLOPs and parameters of the structure."""
        dense, shape = self.build(), self.shape
        counts = accounting.account(dense, shape)
        values = {
            "flops": accounting.flops(dense, shape, self.convention),
            "macs": counts.macs,
            "params": counts.params,
            "filters": sum(layer.out_channels for layer in dense.modules() if isinstance(layer, nn.Conv2d)),
        }
        found = [PublishedCount(self.name, "dense", metric, value) for metric, value in values.items()]
        if not self.rates:
            return found
        narrow = self.build(inner_widths=self.widths())
        structure = {
            "flops": accounting.flops(narrow, shape, self.convention),
            "flops_logged": accounting.flops(narrow, shape, "with_bn_logged"),
            "params": sum(p.numel() for p in narrow.parameters()),
        }
        return found + [
            PublishedCount(self.name, "hand_designed", metric, value) for metric, value in structure.items()
        ]


WINDOW = "with_bn_window_pool"
_INCEPTIONS = [0.8] * 5 + [0.85] + [0.9] * 3
PUBLISHED = (
    Published(
        "vgg16",
        "vgg",
        {"depth": 16, "conv_bias": True},
        32,
        WINDOW,
        {"*": [0.5] + [0.35] * 6 + [0.8] * 4 + [0.9] * 2},
    ),
    Published("resnet56", "resnet_cifar", {"blocks": (9, 9, 9)}, 32, rates={"stages.*.conv1": [0.1] + [0.55] * 26}),
    Published(
        "resnet110",
        "resnet_cifar",
        {"blocks": (18, 18, 18)},
        32,
        rates={"stages.*.conv1": [0.1] + [0.6] * 36 + [0.65] * 17},
    ),
    Published(
        "googlenet",
        "googlenet",
        {},
        32,
        WINDOW,
        {f"body.*.{unit}.conv": _INCEPTIONS for unit in ("reduce3", "reduce5", "conv5a")},
    ),
    Published("resnet50", "resnet50", {}, 224),
    Published("mobilenet_v1", "mobilenet_v1", {}, 224, "with_bn_no_pool"),
    Published("mobilenet_v2", "mobilenet_v2", {}, 224, "with_bn_no_pool"),
)


def structures() -> list[Structure]:
    """The hand-designed structures."""
    return [Structure(n.name, "hand_designed", n.widths()) for n in PUBLISHED if n.rates]


def recompute() -> list[PublishedCount]:
    """Every count of published.csv."""
    return [count for network in PUBLISHED for count in network.counts()]
