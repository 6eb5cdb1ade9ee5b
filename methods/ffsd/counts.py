"""Counts of the published networks and of the modules trained with them: they need no training."""

from dataclasses import dataclass

import torch
from torch import nn

from compressbench import accounting
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork
from compressbench.models.structure import submodule
from methods.ffsd.networks import Cohort, tap_channels

STUDENTS = 2
SETTING = "unchanged"


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A leader of the paper."""

    def counts(self) -> list[PublishedCount]:
        """Parameters and MACs of the leader; parameters of the modules, and of everything that is trained."""
        leader = self.build()
        channels = tap_channels(leader, self.shape)
        classes = submodule(leader, "classifier", nn.Linear).out_features
        with torch.device("meta"):
            cohort = Cohort(leader, [self.build() for _ in range(STUDENTS)], channels, classes)
        counts = accounting.account(leader, self.shape)
        values = {
            "params": counts.params,
            "macs": counts.macs,
            "fusion_params": _params(cohort.fusion),
            "branch_params": _params(cohort.branch),
            "decoder_params": _params(cohort.decoders[0]),
            "trained_params": _params(cohort),
        }
        return [PublishedCount(self.name, SETTING, metric, value) for metric, value in values.items()]


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _resnet(name: str, blocks: int) -> Published:
    return Published(name, "resnet_cifar", {"blocks": [blocks] * 3, "shortcut": "conv", "classes": 100}, 32)


PUBLISHED = (
    _resnet("ResNet-20", 3),
    _resnet("ResNet-32", 5),
    _resnet("ResNet-56", 9),
    Published("WRN-16-2", "wide_resnet", {"depth": 16, "classes": 100}, 32),
    Published("WRN-40-2", "wide_resnet", {"depth": 40, "classes": 100}, 32),
    Published("DenseNet-40-12", "densenet", {"classes": 100}, 32),
    Published("GoogLeNet", "googlenet", {"classes": 100}, 32),
    Published("ResNet-18", "resnet18", {}, 224),
    Published("ResNet-34", "resnet34", {}, 224),
)


def recompute() -> list[PublishedCount]:
    """Every count of published.csv."""
    return [count for network in PUBLISHED for count in network.counts()]
