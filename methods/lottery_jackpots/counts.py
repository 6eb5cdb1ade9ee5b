"""Counts of the published networks: they follow from the architecture and p, whatever the weights are."""

from collections.abc import Mapping
from dataclasses import dataclass

from compressbench import accounting
from compressbench.method import PublishedCount
from compressbench.models.published import PublishedNetwork


@dataclass(frozen=True)
class Published(PublishedNetwork):
    """A network of the paper and the sparsities {setting: p} that are published for it.

    Its classifier, a 1x1 convolution with bias in the authors' code, is a linear layer here: the counts are the same.
    """

    sparsities: Mapping[str, float]

    def counts(self) -> list[PublishedCount]:
        network = self.build()
        counts = accounting.account(network, self.shape)
        classifier = network.get_parameter("classifier.weight").numel()
        dense = {
            "layers": len(list(accounting.weight_layers(network))),
            "weights": counts.weights,
            "classifier_weights": classifier,
            "macs": counts.macs,
            "params": counts.params,
        }
        found = [PublishedCount(self.name, "dense", metric, value) for metric, value in dense.items()]
        for setting, sparsity in self.sparsities.items():
            inner = int((counts.weights - classifier) * (1 - sparsity))
            kept = inner + classifier
            found.append(PublishedCount(self.name, setting, "kept_inner_weights", inner))
            found.append(PublishedCount(self.name, setting, "kept_weights", kept))
            found.append(PublishedCount(self.name, setting, "overall_sparsity", 100 * (1 - kept / counts.weights)))
        return found


_CIFAR: Mapping[str, float] = {"p90": 0.90, "p95": 0.95}
_RESNET32 = {"blocks": (5, 5, 5), "widths": (32, 64, 128), "shortcut": "pad"}
PUBLISHED = (
    Published("vgg19_cifar10", "vgg", {"depth": 19}, 32, _CIFAR),
    Published("vgg19_cifar100", "vgg", {"depth": 19, "classes": 100}, 32, _CIFAR),
    Published("resnet32_cifar10", "resnet_cifar", _RESNET32, 32, _CIFAR),
    Published("resnet32_cifar100", "resnet_cifar", _RESNET32 | {"classes": 100}, 32, _CIFAR),
    Published("resnet50", "resnet50", {}, 224, {"p80": 0.80, "p90": 0.90}),
)


def recompute() -> list[PublishedCount]:
    """Every count of published.csv."""
    return [count for network in PUBLISHED for count in network.counts()]
