"""Counts of the published networks, from the rates of config.yaml: they need no training."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import nn

from compressbench import accounting, models
from compressbench.accounting import LayerCount
from compressbench.config import read_yaml
from compressbench.method import PublishedCount
from compressbench.pruning.blocks import prunable_layers, weights_of
from methods.subp.criterion import Schedule

SHORTCUTS = ("*.shortcut.conv",)


def block_layers(model: nn.Module, dense: Iterable[str] = SHORTCUTS) -> list[str]:
    """The convolutions that carry blocks: not the first, not depthwise ones, and none that a pattern of `dense` names."""
    patterns = tuple(dense)
    return [name for name in prunable_layers(model) if not any(fnmatch(name, pattern) for pattern in patterns)]


@dataclass(frozen=True)
class Published:
    """A network of the paper and its settings in config.yaml."""

    architecture: str
    settings: tuple[str, ...]

    def counts(self) -> list[PublishedCount]:
        with torch.device("meta"):
            network = models.build(self.architecture)
        settings = read_yaml(Path(__file__).with_name("config.yaml"))["settings"]
        rows = [row for row in accounting.layer_table(network, (3, 224, 224)) if row.kind in ("conv", "linear")]
        dense = counts(network, rows, (), 0.0)
        found = {"dense": {name: dense[name] for name in ("macs", "flops_repository", "params")}}
        for setting in self.settings:
            pruned = block_layers(network, settings[setting].get("dense", SHORTCUTS))
            found[setting] = counts(network, rows, pruned, settings[setting]["sparsity"])
        return [
            PublishedCount(self.architecture, setting, metric, value)
            for setting, values in found.items()
            for metric, value in values.items()
        ]


def counts(network: nn.Module, rows: Iterable[LayerCount], pruned: Iterable[str], sparsity: float) -> dict[str, float]:
    """Parameters and operations for one image when the layers `pruned` lose the fraction `sparsity`; rows: all layers.

    macs, params: with whole blocks, as the masks have them. macs_exact_rate, params_exact_rate: with exactly the rate.
    flops_repository, flops: as the authors count: the rate exactly, and one more operation for every output.
    """
    weights, schedule = weights_of(network, pruned), Schedule(sparsity, 0, 0, 1)
    params = sum(p.numel() for p in network.parameters())
    found = dict.fromkeys(("macs", "macs_exact_rate", "flops_repository", "prunable_weights", "removed_weights"), 0.0)
    for row in rows:
        weight = weights.get(row.name)
        removed = 0 if weight is None else weight[:, 0].numel() * schedule.candidates(weight.shape[1])
        kept = 1.0 if weight is None else 1 - sparsity
        found["macs"] += (row.weights - removed) * row.positions
        found["macs_exact_rate"] += kept * row.dense_macs
        found["flops_repository"] += kept * (row.dense_macs + row.outputs)
        found["prunable_weights"] += 0 if weight is None else row.weights
        found["removed_weights"] += removed
    return found | {
        "flops": found["flops_repository"],
        "params": params - found["removed_weights"],
        "params_exact_rate": params - sparsity * found["prunable_weights"],
    }


PUBLISHED = (
    Published("resnet18", ("resnet18_n16", "resnet18_n32")),
    Published("resnet34", ("resnet34_n16", "resnet34_n32")),
    Published("resnet50", ("resnet50_2g_n16", "resnet50_2g_n32", "resnet50_1g_n16", "resnet50_1g_n32")),
    Published("mobilenet_v1", ("mobilenet_v1_n16", "mobilenet_v1_n32")),
)


def recompute() -> list[PublishedCount]:
    """Operations and parameters of every network of PUBLISHED, dense and at its published rates."""
    return [count for network in PUBLISHED for count in network.counts()]
