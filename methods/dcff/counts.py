"""Counts of the published networks, from the rates of config.yaml: they need no training."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compressbench import accounting
from compressbench.config import read_yaml
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork
from compressbench.pruning.deployments import Structure
from compressbench.pruning.filters import Widths, widths_from_rates
from compressbench.pruning.surgery import build_narrow


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A network of the paper, the conventions that its FLOPs follow, and its settings in config.yaml."""

    settings: tuple[str, ...]
    convention: str = "with_bn_imagenet"
    dense_convention: str = ""
    """Corrections where the authors count their dense network differently from the narrow one."""

    def widths(self, setting: str) -> Widths:
        """The widths that follow from the rates of a setting."""
        rates = read_yaml(Path(__file__).with_name("config.yaml"))["settings"][setting]["rates"]
        return widths_from_rates(self.build(), rates)

    def narrow(self, setting: str) -> nn.Module:
        """The network of a setting, on the meta device."""
        with torch.device("meta"):
            return build_narrow(self.build(), self.widths(setting))

    def counts(self) -> list[PublishedCount]:
        dense = self._counts(self.build(), self.dense_convention or self.convention)
        found = [PublishedCount(self.name, "dense", metric, value) for metric, value in dense.items()]
        for setting in self.settings:
            for metric, value in self._counts(self.narrow(setting), self.convention).items():
                found.append(PublishedCount(self.name, setting, metric, value))
                found.append(PublishedCount(self.name, setting, f"{metric}_removed", 100 * (1 - value / dense[metric])))
        return found

    def _counts(self, network: nn.Module, convention: str) -> dict[str, int]:
        return {
            "params": sum(p.numel() for p in network.parameters()),
            "flops": accounting.flops(network, self.shape, convention),
        }


def _resnet(depth: int) -> Published:
    # the authors' dense network pools by a function, which their counter does not see; their narrow one by a module
    name, blocks = f"resnet{depth}", ((depth - 2) // 6,) * 3
    return Published(name, "resnet_cifar", {"blocks": blocks}, 32, (name,), "with_bn", "with_bn_no_pool")


PUBLISHED = (
    Published("vgg16", "vgg", {"depth": 16, "conv_bias": True}, 32, ("vgg16",)),
    _resnet(56),
    _resnet(110),
    Published("googlenet", "googlenet", {}, 32, ("googlenet",)),
    Published("resnet50", "resnet50", {}, 224, tuple(f"resnet50_{c}" for c in "abcdef")),
)


def structures() -> list[Structure]:
    """The ten published networks."""
    return [Structure(n.name, setting, n.widths(setting)) for n in PUBLISHED for setting in n.settings]


def recompute() -> list[PublishedCount]:
    """Parameters, FLOPs and their reductions in % of every network of PUBLISHED, and of the dense ones."""
    return [count for network in PUBLISHED for count in network.counts()]
