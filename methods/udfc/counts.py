"""Counts of the networks that the paper names, dense and pruned in every layer that feeds one other: they need no training.

Parameters with batch norms and biases; MACs of convolutions and linear layers; memory of weights, batch norms not counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compressbench import accounting
from compressbench.data_free.closed_forms import consecutive_pairs
from compressbench.data_free.pruning import kept_count
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork
from compressbench.pruning.filters import Widths, producer_weights

BITS = 6
HIDDEN = 512


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A network, and the ratios (percent) or whole structures for which its counts are given."""

    percentages: Sequence[int]
    hidden: bool = False
    """Whether 512 hidden units stand before the 10 classes, as in the public VGG-16 of Neuron Merging."""
    structures: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def costs(self, widths: Widths | None = None) -> dict[str, int]:
        """Parameters, MACs and weights of convolutions and linear layers."""
        network = self.build(inner_widths=widths)
        found = accounting.account(network, self.shape)
        extra = biases = 0
        if self.hidden:  # features -> 512 -> 10 in place of features -> 10
            last = network.get_parameter("classifier.weight").shape[1]
            extra, biases = last * HIDDEN + HIDDEN * 10 - last * 10, HIDDEN
        return {"params": found.params + extra + biases, "macs": found.macs + extra, "weights": found.weights + extra}

    def widths(self) -> dict[str, Widths]:
        """Every structure by its setting."""
        dense = self.build()
        full = producer_weights(dense, [pair.layer for pair in consecutive_pairs(dense)])
        chosen: dict[str, Widths] = {
            f"p{p}": {key: kept_count(len(weight), p / 100) for key, weight in full.items()} for p in self.percentages
        }
        return chosen | {name: dict(zip(full, widths, strict=True)) for name, widths in self.structures.items()}

    def counts(self) -> list[PublishedCount]:
        """What every structure costs, and how many times less memory its weights take at 6 bits than the dense ones at 32."""
        dense = self.costs()
        found = [PublishedCount(self.name, "dense", metric, value) for metric, value in dense.items()]
        for setting, widths in self.widths().items():
            narrow = self.costs(widths)
            cuts = {f"{metric}_removed": 100 * (1 - narrow[metric] / dense[metric]) for metric in narrow}
            factor = {"memory_factor": 32 * dense["weights"] / (BITS * narrow["weights"])}
            found += [
                PublishedCount(self.name, setting, metric, value) for metric, value in (narrow | cuts | factor).items()
            ]
        return found


PUBLISHED = (
    Published("ResNet-18", "resnet18", {}, 224, (30,)),
    Published("ResNet-34", "resnet34", {}, 224, (10, 20, 30)),
    Published("ResNet-50", "resnet50", {}, 224, (30,)),
    Published("ResNet-20", "resnet_cifar", {"blocks": (3, 3, 3)}, 32, (30, 50)),
    Published("ResNet-56", "resnet_cifar", {"blocks": (9, 9, 9)}, 32, (30, 50, 70)),
    Published("VGG-16", "vgg", {"depth": 16}, 32, (30, 50), True, {"neuron_merging": (32, 64, 128, 128, *[256] * 9)}),
)


def recompute() -> list[PublishedCount]:
    """Every count of published.csv."""
    return [count for network in PUBLISHED for count in network.counts()]
